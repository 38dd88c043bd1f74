/*
 * traffic: network flows that notice what is lost, changed or exchanged on the way.
 *
 *   traffic tcp listen PORT [--rate BYTES_PER_S]             one connection, both directions at once
 *   traffic tcp connect ADDRESS PORT [--rate BYTES_PER_S]
 *   traffic udp PORT ADDRESS PORT [--rate DATAGRAMS_PER_S]   from our port to theirs, and what comes back
 *           [--size BYTES] [--segments N] [--report FILE] [--seconds N]
 *
 * ADDRESS is of IPv4 or IPv6; a listener takes either.
 *
 * tcp: each side sends a stream of its own and hashes (FNV-1a, 64 bit) what it sends and what it receives. SIGTERM
 * (or --seconds) ends one side's stream; the other side then ends its own, and both read to the end. The data
 * arrived whole if each side's "receivedHash" is the other's "sentHash".
 *
 * udp: numbered datagrams, both ways at the same time. "missing" are numbers below the highest that never came,
 * from the first that came; "hole" is the longest run of numbers missing when a later one came. An echo server can be
 * the other side. After SIGTERM nothing is sent for a second, and received still. With --segments, N datagrams go to the
 * kernel at once (UDP_SEGMENT), to be cut there or by the network card.
 *
 * The report (default /run/traffic) is one JSON object, replaced as a whole five times a second; "done" is true in
 * the last one. "gapMs" is the longest time without a byte received. Exit status 1 on a broken connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 32 * 1024, REPORT_MS = 200, DRAIN_MS = 1000, SOCKET_BUFFER = 8 << 20, MAX_SIZE = 65000 };
enum { SEQUENCES = 1 << 24, HEADER = 8 };

static const uint64_t fnv_start = 0xcbf29ce484222325ull, fnv_prime = 0x100000001b3ull;
static const uint32_t magic = 0x76637471;

static volatile sig_atomic_t stopped;
static const char *report_path = "/run/traffic";
static double rate;
static size_t size = 64;
static unsigned segments = 1;
static double seconds;
static uint64_t sent, received, sent_hash, received_hash;
static uint64_t last_arrival, longest_gap, last_report, start;
/* udp */
static uint8_t *seen;
static uint32_t first, highest, distinct, reordered, duplicates, longest_hole;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static uint64_t microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static uint64_t hash(uint64_t state, const uint8_t *bytes, size_t length)
{
	for (size_t at = 0; at < length; at++)
		state = (state ^ bytes[at]) * fnv_prime;
	return state;
}

static void report(int udp, int done, const char *error)
{
	char draft[512];
	FILE *file;

	last_report = microseconds();
	snprintf(draft, sizeof draft, "%s.draft", report_path);
	file = fopen(draft, "w");
	if (file == NULL)
		return;
	fprintf(file, "{\"sent\":%llu,\"received\":%llu,\"gapMs\":%llu,", (unsigned long long)sent,
		(unsigned long long)received, (unsigned long long)longest_gap / 1000);
	if (udp)
		fprintf(file, "\"missing\":%u,\"hole\":%u,\"reordered\":%u,\"duplicates\":%u,",
			distinct == 0 ? 0 : highest - first + 1 - distinct, longest_hole, reordered, duplicates);
	else
		fprintf(file, "\"sentHash\":\"%016llx\",\"receivedHash\":\"%016llx\",",
			(unsigned long long)sent_hash, (unsigned long long)received_hash);
	fprintf(file, "\"done\":%s,\"error\":\"%s\"}\n", done ? "true" : "false", error);
	fclose(file);
	rename(draft, report_path);
}

static void fail(int udp, const char *what)
{
	char text[256];

	snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
	report(udp, 1, text);
	fprintf(stderr, "traffic: %s\n", text);
	exit(1);
}

static void arrived(void)
{
	uint64_t now = microseconds();

	if (last_arrival != 0 && now - last_arrival > longest_gap)
		longest_gap = now - last_arrival;
	last_arrival = now;
}

/* How many units of the rate are due in all. */
static uint64_t due(uint64_t from)
{
	return rate <= 0 ? UINT64_MAX : (microseconds() - from) * rate / 1e6;
}

static void check_time(void)
{
	if (seconds > 0 && microseconds() - start > seconds * 1e6)
		stopped = 1;
}

struct address {
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	};
};

/* One kind of socket does for both; where the kernel has no IPv6, one for IPv4. */
static int any_socket(int type, int *family)
{
	int zero = 0, fd = socket(*family = AF_INET6, type, 0);

	if (fd < 0)
		fd = socket(*family = AF_INET, type, 0);
	if (fd < 0)
		fail(0, "socket");
	if (*family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) != 0)
		fail(0, "IPV6_V6ONLY");
	return fd;
}

/* For a socket of that family: an IPv4 address as IPv6 has it (::ffff:a.b.c.d), or as it is. */
static struct address address_of(int family, const char *host, const char *port)
{
	struct address address = { .length = sizeof address.six };
	char mapped[INET6_ADDRSTRLEN + 8];

	address.six.sin6_family = AF_INET6;
	address.six.sin6_port = htons(atoi(port));
	snprintf(mapped, sizeof mapped, "%s%s", strchr(host, ':') == NULL ? "::ffff:" : "", host);
	if (inet_pton(AF_INET6, mapped, &address.six.sin6_addr) != 1 ||
	    (family == AF_INET && strchr(host, ':') != NULL)) {
		fprintf(stderr, "traffic: %s is no IP address of use here\n", host);
		exit(2);
	}
	if (family == AF_INET) {
		address = (struct address){ .length = sizeof address.four };
		address.four.sin_family = AF_INET;
		address.four.sin_port = htons(atoi(port));
		inet_pton(AF_INET, host, &address.four.sin_addr);
	}
	return address;
}

static int bound(int type, const char *port, int *family)
{
	int one = 1, fd = any_socket(type, family);
	struct address any = address_of(*family, *family == AF_INET ? "0.0.0.0" : "::", port);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, &any.any, any.length) != 0)
		fail(0, "bind");
	return fd;
}

static int connection(char **args, int listening)
{
	int one = 1, family, fd;

	if (listening) {
		int listener = bound(SOCK_STREAM, args[0], &family);

		if (listen(listener, 1) != 0)
			fail(0, "listen");
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			fail(0, "accept");
		close(listener);
	} else {
		struct address address;

		fd = any_socket(SOCK_STREAM, &family);
		address = address_of(family, args[0], args[1]);
		if (connect(fd, &address.any, address.length) != 0)
			fail(0, "connect");
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

/* Contents do not repeat, so that a piece in the wrong place shows. */
static void refill(uint64_t *state, uint8_t *chunk)
{
	for (size_t at = 0; at < CHUNK; at += 8) {
		*state = *state * 6364136223846793005ull + 1442695040888963407ull;
		uint64_t word = *state ^ *state >> 29;
		memcpy(chunk + at, &word, 8);
	}
}

static int tcp(char **args, int listening)
{
	static uint8_t out[CHUNK], in[CHUNK];
	uint64_t state = microseconds() * 2 + listening, from;
	size_t filled = CHUNK;
	int sending = 1, receiving = 1, fd = connection(args, listening);

	sent_hash = received_hash = fnv_start;
	start = from = microseconds();
	while (sending || receiving) {
		struct pollfd ready = { .fd = fd };
		uint64_t allowed;

		check_time();
		if (sending && (stopped || !receiving)) {
			shutdown(fd, SHUT_WR);
			sending = 0;
		}
		allowed = due(from) > sent ? due(from) - sent : 0;
		ready.events = (receiving ? POLLIN : 0) | (sending && allowed >= CHUNK / 8 ? POLLOUT : 0);
		if (poll(&ready, 1, sending ? 5 : 100) < 0 && errno != EINTR)
			fail(0, "poll");
		if (ready.revents & (POLLIN | POLLHUP | POLLERR)) {
			ssize_t got = recv(fd, in, sizeof in, MSG_DONTWAIT);

			if (got == 0)
				receiving = 0;
			else if (got < 0 && errno != EAGAIN && errno != EINTR)
				fail(0, "recv");
			else if (got > 0) {
				arrived();
				received_hash = hash(received_hash, in, got);
				received += got;
			}
		}
		if (sending && (ready.revents & POLLOUT)) {
			if (filled == CHUNK) {
				refill(&state, out);
				filled = 0;
			}
			size_t want = CHUNK - filled;

			if (want > allowed)
				want = allowed;
			ssize_t put = send(fd, out + filled, want, MSG_DONTWAIT | MSG_NOSIGNAL);

			if (put < 0 && errno != EAGAIN && errno != EINTR)
				fail(0, "send");
			if (put > 0) {
				sent_hash = hash(sent_hash, out + filled, put);
				sent += put;
				filled += put;
			}
		}
		if (microseconds() - last_report > REPORT_MS * 1000)
			report(0, 0, "");
	}
	report(0, 1, "");
	return 0;
}

static void numbered(uint32_t sequence)
{
	if (sequence >= SEQUENCES)
		return;
	if (distinct == 0)
		first = highest = sequence;
	if (seen[sequence]) {
		duplicates++;
		return;
	}
	if (sequence < first) {
		reordered++;
		return;
	}
	seen[sequence] = 1;
	distinct++;
	if (sequence < highest)
		reordered++;
	else {
		if (sequence > highest && sequence - highest - 1 > longest_hole)
			longest_hole = sequence - highest - 1;
		highest = sequence;
	}
}

static int udp(char **args)
{
	static uint8_t datagram[MAX_SIZE];
	int family, fd = bound(SOCK_DGRAM, args[0], &family), buffer = SOCKET_BUFFER;
	struct address to = address_of(family, args[1], args[2]);
	uint64_t quiet_since = 0;

	/* Connected, the kernel keeps to one transmit queue; else the datagrams overtake each other when we change CPU. */
	if (connect(fd, &to.any, to.length) != 0)
		fail(1, "connect");
	seen = calloc(SEQUENCES, 1);
	if (seen == NULL)
		fail(1, "calloc");
	/* After a pause everything that was kept comes at once. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
	if (segments > 1) {
		int each = size;

		if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &each, sizeof each) != 0)
			fail(1, "UDP_SEGMENT");
	}
	/*
	 * Counting begins here: while connect() gives the socket its addresses the kernel finds none for what comes (it counts
	 * NoPorts), so that what came before bind() and connect() were done may have a gap.
	 */
	while (recv(fd, datagram, sizeof datagram, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
		;
	start = microseconds();
	for (;;) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		uint64_t now = microseconds();

		check_time();
		if (stopped && quiet_since == 0)
			quiet_since = now;
		if (quiet_since != 0 && now - quiet_since > DRAIN_MS * 1000)
			break;
		/* Never more than a few at once: a sender that was held up does not make up for it. */
		for (int burst = 0; burst < 4 && quiet_since == 0 && sent + segments <= SEQUENCES &&
				  due(start) >= sent + segments;
		     burst++) {
			for (unsigned each = 0; each < segments; each++) {
				uint32_t header[2] = { htonl(magic), htonl((uint32_t)(sent + each)) };

				memcpy(datagram + each * size, header, HEADER);
			}
			if (send(fd, datagram, size * segments, MSG_DONTWAIT) < 0) {
				/* Refused is what went before, by a peer that was not there yet; this has not been sent. */
				if (errno == EAGAIN || errno == ENOBUFS || errno == ECONNREFUSED)
					break;
				fail(1, "send");
			}
			sent += segments;
		}
		poll(&ready, 1, 1);
		for (int burst = 0; burst < 256; burst++) {
			uint32_t header[2];
			ssize_t got = recv(fd, datagram, sizeof datagram, MSG_DONTWAIT);

			if (got < 0 && errno == ECONNREFUSED)
				continue;
			if (got < 0)
				break;
			memcpy(header, datagram, HEADER);
			if (got < HEADER || ntohl(header[0]) != magic)
				continue;
			received++;
			arrived();
			numbered(ntohl(header[1]));
		}
		if (microseconds() - last_report > REPORT_MS * 1000)
			report(1, 0, "");
	}
	report(1, 1, "");
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: traffic tcp listen PORT | tcp connect ADDRESS PORT | udp PORT ADDRESS PORT\n"
			"       [--rate N] [--size BYTES] [--segments N] [--seconds N] [--report FILE]\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rate", required_argument, NULL, 'r' },
		{ "size", required_argument, NULL, 's' },
		{ "segments", required_argument, NULL, 'g' },
		{ "seconds", required_argument, NULL, 'n' },
		{ "report", required_argument, NULL, 'o' },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'r')
			rate = atof(optarg);
		else if (option == 's')
			size = atoi(optarg);
		else if (option == 'g')
			segments = atoi(optarg);
		else if (option == 'n')
			seconds = atof(optarg);
		else if (option == 'o')
			report_path = optarg;
		else
			return usage();
	}
	if (size < HEADER || segments < 1 || segments > MAX_SIZE / size)
		return usage();
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	argv += optind;
	argc -= optind;
	if (argc == 3 && strcmp(argv[0], "tcp") == 0 && strcmp(argv[1], "listen") == 0)
		return tcp(argv + 2, 1);
	if (argc == 4 && strcmp(argv[0], "tcp") == 0 && strcmp(argv[1], "connect") == 0)
		return tcp(argv + 2, 0);
	if (argc == 4 && strcmp(argv[0], "udp") == 0)
		return udp(argv + 1);
	return usage();
}
