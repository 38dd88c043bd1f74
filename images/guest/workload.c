/*
 * workload: keeps changing memory and checks that nobody else does.
 *
 *   workload --mib N [--rate MIB_PER_S] [--report FILE] [--seconds N]
 *
 * Each page holds its number, its version and contents that follow from both, with a checksum. A page is
 * checked before each rewrite against the version kept in a table of its own, so a page that is lost, torn,
 * stale or exchanged is an error. The report file (default /run/workload) has one line, replaced as a whole:
 *
 *   pages P passes N rewrites R errors E gap-ms G
 *
 * G is the longest time between two rewrites that the guest's own clock has seen. Runs until SIGTERM, or for
 * --seconds; checks all pages once more at the end. Exit status 1 if there was any error. SIGUSR1 spoils a
 * word of the first page, so that the check can be seen to work.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, HEADER_WORDS = 3, SLICE_MS = 10, REPORT_MS = 200, MIB = 1 << 20 };

static volatile sig_atomic_t stopped, spoil;
static uint64_t *memory;
static uint32_t *versions;
static size_t pages;
static uint64_t rewrites, errors, longest_gap;
static const char *report_path = "/run/workload";

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static void ask_to_spoil(int signal)
{
	(void)signal;
	spoil = 1;
}

static uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

static uint64_t next_word(uint64_t state)
{
	return state * 6364136223846793005ull + 1442695040888963407ull;
}

static uint64_t seed_of(size_t page, uint32_t version)
{
	return next_word((uint64_t)page << 32 | version);
}

static void write_page(size_t page)
{
	uint64_t *words = memory + page * WORDS, state, sum = 0;
	uint32_t version = versions[page] + 1;

	state = seed_of(page, version);
	for (int i = HEADER_WORDS; i < WORDS; i++) {
		state = next_word(state);
		words[i] = state;
		sum ^= state + i;
	}
	words[0] = page;
	words[1] = version;
	words[2] = sum;
	versions[page] = version;
	rewrites++;
}

static void check_page(size_t page)
{
	const uint64_t *words = memory + page * WORDS;
	uint64_t state = seed_of(page, versions[page]), sum = 0;
	int good = words[0] == page && words[1] == versions[page];

	for (int i = HEADER_WORDS; i < WORDS; i++) {
		state = next_word(state);
		good &= words[i] == state;
		sum ^= words[i] + i;
	}
	good &= words[2] == sum;
	if (!good && errors++ < 10)
		fprintf(stderr, "page %zu: is page %llu version %llu, should be version %u\n", page,
			(unsigned long long)words[0], (unsigned long long)words[1], versions[page]);
}

static void report(void)
{
	char draft[256];
	FILE *file;

	snprintf(draft, sizeof draft, "%s.new", report_path);
	file = fopen(draft, "w");
	if (file == NULL)
		return;
	fprintf(file, "pages %zu passes %llu rewrites %llu errors %llu gap-ms %llu\n", pages,
		(unsigned long long)(rewrites / pages), (unsigned long long)rewrites, (unsigned long long)errors,
		(unsigned long long)longest_gap);
	fclose(file);
	rename(draft, report_path);
}

static void run(double pages_per_ms, uint64_t end)
{
	uint64_t start = milliseconds(), last = start, reported = start;
	double budget = 0;
	size_t page = 0;

	while (!stopped) {
		uint64_t now = milliseconds();

		if (end != 0 && now >= end)
			break;
		if (spoil)
			memory[WORDS - 1] ^= 1;
		spoil = 0;
		if (now - last > longest_gap)
			longest_gap = now - last;
		budget += (now - last) * pages_per_ms;
		/* After a pause it does not try to catch up. */
		if (budget > SLICE_MS * 4 * pages_per_ms)
			budget = SLICE_MS * 4 * pages_per_ms;
		last = now;
		for (; budget >= 1 && !stopped; budget--) {
			check_page(page);
			write_page(page);
			page = (page + 1) % pages;
		}
		if (now - reported >= REPORT_MS) {
			report();
			reported = now;
		}
		usleep(SLICE_MS * 1000);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "mib", required_argument, NULL, 'm' },
		{ "rate", required_argument, NULL, 'r' },
		{ "report", required_argument, NULL, 'f' },
		{ "seconds", required_argument, NULL, 's' },
		{ NULL, 0, NULL, 0 },
	};
	double mib = 16, rate = 8, seconds = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'm')
			mib = atof(optarg);
		else if (option == 'r')
			rate = atof(optarg);
		else if (option == 'f')
			report_path = optarg;
		else if (option == 's')
			seconds = atof(optarg);
		else
			return 2;
	}
	pages = mib * (MIB / PAGE);
	if (pages == 0 || rate <= 0)
		return fprintf(stderr, "workload --mib N [--rate MIB_PER_S] [--report FILE] [--seconds N]\n"), 2;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	versions = calloc(pages, sizeof *versions);
	if (memory == MAP_FAILED || versions == NULL)
		return fprintf(stderr, "no memory for %g MiB\n", mib), 1;
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGUSR1, ask_to_spoil);
	for (size_t page = 0; page < pages; page++)
		write_page(page);
	report();
	run(rate * (MIB / PAGE) / 1000, seconds == 0 ? 0 : milliseconds() + (uint64_t)(seconds * 1000));
	for (size_t page = 0; page < pages; page++)
		check_page(page);
	report();
	return errors != 0;
}
