import { summary } from './summary.ts';
import type { MigrationReport } from './types.ts';

export function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (c) => entities[c] ?? c);
}

const style = `body{font:14px/1.5 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}.ok{color:#0a7d33}.bad{color:#b00020}pre{background:#f5f6f8;padding:1em;overflow:auto}
svg{max-width:100%;height:auto}@media print{body{margin:0}}`;

/** Data inside a script element must not be able to end it. */
function embedJson(report: MigrationReport): string {
  return JSON.stringify(report).replaceAll('<', '\\u003c');
}

/**
 * One self-contained page: no script runs, nothing is fetched; the data is in it as JSON, too.
 * @param proven what else was found to hold, one sentence each
 */
export async function htmlReport(report: MigrationReport, proven: readonly string[] = []): Promise<string> {
  // The charting library is large and needed for nothing else.
  const { convergenceChart, timelineChart } = await import('./charts.ts');
  const good = report.outcome === 'migrated' && report.error === null;
  const what = report.outcome === 'migrated' ? 'Migrated, but something failed' : 'Migration failed';
  const title = good ? 'Migration' : `${what}: ${report.error?.code ?? report.outcome}`;
  const charts = [
    ...(report.timeline.length > 0 ? [timelineChart(report)] : []),
    ...(report.samples.length > 0 ? [convergenceChart(report)] : []),
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>${escapeHtml(title)}</title><style>${style}</style></head><body>
<h1 class="${good ? 'ok' : 'bad'}">${escapeHtml(title)}</h1>
<p>${escapeHtml(report.startedAt)}</p>
<pre>${escapeHtml(summary(report))}</pre>
${proven.length === 0 ? '' : `<ul>${proven.map((line) => `<li>${escapeHtml(line)}</li>`).join('')}</ul>`}
${charts.join('\n')}
<script type="application/json" id="report">${embedJson(report)}</script>
</body></html>
`;
}
