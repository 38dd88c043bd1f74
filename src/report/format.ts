const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** "1.5 MiB" */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** "1 round", "2 rounds" */
export function passes(rounds: number): string {
  return `${rounds} round${rounds === 1 ? '' : 's'}`;
}

/** Microseconds as "812 µs" or "31.4 ms". */
export function duration(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 10_000_000 ? `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms` : `${(us / 1e6).toFixed(1)} s`;
}
