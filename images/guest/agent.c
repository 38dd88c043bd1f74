/*
 * Guest control agent: runs shell commands for the host, over a serial port.
 *
 * Frames are lines of text that start with the byte SOH, so that either side finds its feet again after
 * bytes were lost: a live migration loses what the host had sent and the UART had not yet read.
 *
 *   host to guest   SOH R <id> <crc32> <base64 of the command> LF    run it, once for each id
 *                   SOH K <id> LF                                    kill what runs under id
 *   guest to host   SOH H - LF                                       the agent has started; send what is open
 *                   SOH A <id> <status> <t|-> <crc32> <base64 of the output> LF
 *                   SOH N <id> LF                                    request damaged, send it again
 *
 * A request is idempotent: one that is running is not started again, and one that has ended is answered
 * again from memory. `t` says that the output was cut off at OUTPUT_LIMIT.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
	SOH = 1,
	ID_LIMIT = 40,
	LINE_LIMIT = 96 * 1024,
	OUTPUT_LIMIT = 1024 * 1024,
	JOBS = 32, /* running ones and the answers that are remembered */
};

enum state { FREE, RUNNING, DONE };

struct job {
	enum state state;
	char id[ID_LIMIT];
	unsigned long age;
	pid_t pid;
	int pipe;
	int status;
	int truncated;
	size_t length;
	unsigned char *output;
};

static struct job jobs[JOBS];
static unsigned long clock_of_jobs;
static int port;
static char line[LINE_LIMIT];
static size_t line_length;
static int in_frame;

static uint32_t crc32_of(const unsigned char *data, size_t length)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < length; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *encode(const unsigned char *data, size_t length)
{
	char *text = malloc((length + 2) / 3 * 4 + 1), *out = text;

	if (text == NULL)
		return NULL;
	for (size_t i = 0; i < length; i += 3) {
		size_t left = length - i;
		uint32_t group = data[i] << 16 | (left > 1 ? data[i + 1] << 8 : 0) | (left > 2 ? data[i + 2] : 0);

		*out++ = alphabet[group >> 18];
		*out++ = alphabet[group >> 12 & 63];
		*out++ = left > 1 ? alphabet[group >> 6 & 63] : '=';
		*out++ = left > 2 ? alphabet[group & 63] : '=';
	}
	*out = 0;
	return text;
}

/* Decodes in place; returns the length, or -1 for text that is not base64. */
static long decode(char *text)
{
	unsigned char *out = (unsigned char *)text;
	uint32_t group = 0;
	int bits = 0;

	for (char *in = text; *in != 0 && *in != '='; in++) {
		const char *digit = strchr(alphabet, *in);

		if (digit == NULL)
			return -1;
		group = group << 6 | (uint32_t)(digit - alphabet);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*out++ = group >> bits & 255;
		}
	}
	return out - (unsigned char *)text;
}

static void send_all(const char *data, size_t length)
{
	while (length > 0) {
		ssize_t done = write(port, data, length);

		if (done > 0) {
			data += done;
			length -= done;
		} else if (done < 0 && errno != EAGAIN && errno != EINTR) {
			exit(1);
		} else {
			struct pollfd wait = { .fd = port, .events = POLLOUT };

			poll(&wait, 1, -1);
		}
	}
}

static void send_answer(const struct job *job)
{
	char *text = encode(job->output, job->length);
	char head[ID_LIMIT + 64];

	if (text == NULL)
		return;
	snprintf(head, sizeof head, "%cA %s %d %c %08x ", SOH, job->id, job->status, job->truncated ? 't' : '-',
		 crc32_of(job->output, job->length));
	send_all(head, strlen(head));
	send_all(text, strlen(text));
	send_all("\n", 1);
	free(text);
}

static struct job *find_job(const char *id)
{
	for (int i = 0; i < JOBS; i++)
		if (jobs[i].state != FREE && strcmp(jobs[i].id, id) == 0)
			return &jobs[i];
	return NULL;
}

/* A free place, or that of the oldest answer; NULL when all are running. */
static struct job *new_job(const char *id)
{
	struct job *best = NULL;

	for (int i = 0; i < JOBS; i++) {
		if (jobs[i].state == RUNNING)
			continue;
		if (best == NULL || jobs[i].state < best->state ||
		    (jobs[i].state == best->state && jobs[i].age < best->age))
			best = &jobs[i];
	}
	if (best == NULL)
		return NULL;
	free(best->output);
	memset(best, 0, sizeof *best);
	best->age = ++clock_of_jobs;
	best->pipe = -1;
	strcpy(best->id, id);
	return best;
}

static void drain(struct job *job)
{
	unsigned char chunk[4096];
	ssize_t got;

	while ((got = read(job->pipe, chunk, sizeof chunk)) > 0) {
		size_t room = OUTPUT_LIMIT - job->length;
		size_t take = (size_t)got < room ? (size_t)got : room;
		unsigned char *grown = realloc(job->output, job->length + take + 1);

		if (take < (size_t)got || grown == NULL)
			job->truncated = 1;
		if (grown == NULL)
			continue;
		job->output = grown;
		memcpy(job->output + job->length, chunk, take);
		job->length += take;
	}
	if (got == 0) {
		close(job->pipe);
		job->pipe = -1;
	}
}

static void finish(struct job *job, int status)
{
	if (job->pipe >= 0)
		drain(job);
	if (job->pipe >= 0)
		close(job->pipe);
	job->pipe = -1;
	job->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	job->state = DONE;
	send_answer(job);
}

static void start(const char *id, const char *command)
{
	struct job *job = new_job(id);
	int ends[2];

	if (job == NULL || pipe2(ends, O_CLOEXEC) < 0)
		return; /* the host asks again */
	job->pid = fork();
	if (job->pid < 0) {
		close(ends[0]);
		close(ends[1]);
		return;
	}
	if (job->pid == 0) {
		sigset_t none;
		int null = open("/dev/null", O_RDONLY);

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		dup2(null, 0);
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	job->pipe = ends[0];
	job->state = RUNNING;
}

static void handle_frame(char *frame)
{
	char *rest = frame;
	char *kind = strsep(&rest, " "), *id = strsep(&rest, " ");
	struct job *job;

	if (id == NULL || *id == 0 || strlen(id) >= ID_LIMIT)
		return;
	job = find_job(id);
	if (strcmp(kind, "K") == 0) {
		if (job != NULL && job->state == RUNNING)
			kill(-job->pid, SIGKILL);
	} else if (strcmp(kind, "R") == 0) {
		char *sum = strsep(&rest, " ");
		long length = rest == NULL ? -1 : decode(rest);
		char answer[ID_LIMIT + 8];

		if (length < 0 || crc32_of((unsigned char *)rest, length) != strtoul(sum, NULL, 16)) {
			snprintf(answer, sizeof answer, "%cN %s\n", SOH, id);
			send_all(answer, strlen(answer));
			return;
		}
		rest[length] = 0;
		if (job == NULL)
			start(id, rest);
		else if (job->state == DONE)
			send_answer(job);
	}
}

static void receive(void)
{
	unsigned char chunk[4096];
	ssize_t got;

	while ((got = read(port, chunk, sizeof chunk)) > 0) {
		for (ssize_t i = 0; i < got; i++) {
			if (chunk[i] == SOH) {
				in_frame = 1;
				line_length = 0;
			} else if (in_frame && chunk[i] == '\n') {
				in_frame = 0;
				line[line_length] = 0;
				handle_frame(line);
			} else if (in_frame && line_length < sizeof line - 1) {
				line[line_length++] = chunk[i];
			} else {
				in_frame = 0;
			}
		}
	}
	if (got == 0 || (errno != EAGAIN && errno != EINTR))
		exit(1);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < JOBS; i++)
			if (jobs[i].state == RUNNING && jobs[i].pid == pid)
				finish(&jobs[i], status);
}

int main(int argc, char **argv)
{
	struct termios raw;
	struct signalfd_siginfo info;
	sigset_t mask;
	int signals;

	port = open(argc > 1 ? argv[1] : "/dev/ttyS1", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (port < 0 || tcgetattr(port, &raw) < 0)
		for (;;)
			pause(); /* this machine has no such port: nothing to do, and no reason to be started again */
	cfmakeraw(&raw);
	cfsetspeed(&raw, B115200);
	raw.c_cflag |= CLOCAL | CREAD;
	tcsetattr(port, TCSANOW, &raw);
	setenv("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	chdir("/root");
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	snprintf(line, sizeof line, "%cH -\n", SOH);
	send_all(line, strlen(line));
	signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);

	for (;;) {
		struct pollfd waits[2 + JOBS] = {
			{ .fd = port, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
		};

		for (int i = 0; i < JOBS; i++)
			waits[2 + i] = (struct pollfd){
				.fd = jobs[i].state == RUNNING ? jobs[i].pipe : -1,
				.events = POLLIN,
			};
		if (poll(waits, 2 + JOBS, -1) < 0 && errno != EINTR)
			exit(1);
		for (int i = 0; i < JOBS; i++)
			if (waits[2 + i].revents != 0 && jobs[i].pipe >= 0)
				drain(&jobs[i]);
		while (read(signals, &info, sizeof info) > 0)
			;
		reap();
		if (waits[0].revents != 0)
			receive();
	}
}
