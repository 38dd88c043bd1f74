import { type KeyFigure, keyFigures } from './key-figures.ts';
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

const style = `body{font:14px/1.5 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em;margin:0}.when{color:#667;margin:0 0 1.5em}.ok{color:#0a7d33}.bad{color:#b00020}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:12px;margin:0 0 1.5em}
.figures div{border:1px solid #dde1e6;border-left:4px solid #9aa5b1;border-radius:4px;padding:.6em .9em}
.figures .ok{border-left-color:#0a7d33}.figures .bad{border-left-color:#b00020}
.figures dt{color:#667}.figures dd{margin:0;color:#222}.figures .value{font-size:1.35em;font-weight:600}
.message{border-left:4px solid #b00020;background:#fdf1f2;padding:.6em .9em;white-space:pre-wrap}
.warning{border-left-color:#d98e00;background:#fdf8ec}ul.proven{list-style:"✓  ";padding-left:1.4em}
summary{cursor:pointer;color:#667;margin-top:1em}pre{background:#f5f6f8;padding:1em;overflow:auto}
svg{max-width:100%;height:auto;display:block;margin:0 0 1em}
@media print{body{margin:0}.figures div,svg{break-inside:avoid}}`;

/** Data inside a script element must not be able to end it. */
function embedJson(report: MigrationReport): string {
  return JSON.stringify(report).replaceAll('<', '\\u003c');
}

function figure({ label, value, note, good }: KeyFigure): string {
  const verdict = good === undefined ? '' : good ? ' class="ok"' : ' class="bad"';
  const [name, text, more] = [label, value, note].map(escapeHtml);
  return `<div${verdict}><dt>${name}</dt><dd class="value">${text}</dd><dd>${more}</dd></div>`;
}

/** What went wrong or may have, before anything else. */
function messages({ error, warnings }: MigrationReport): string[] {
  const hint = error?.hint === undefined ? '' : `\nhint: ${error.hint}`;
  return [
    ...(error === null
      ? []
      : [`<p class="message">${escapeHtml(`${error.message} [${error.code}]${hint}`)}</p>`]),
    ...warnings.map((warning) => `<p class="message warning">${escapeHtml(`warning: ${warning}`)}</p>`),
  ];
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
  const title = good
    ? 'Live migration: the guest has arrived'
    : `${what}: ${report.error?.code ?? report.outcome}`;
  const parts = [
    ...messages(report),
    `<dl class="figures">${keyFigures(report).map(figure).join('')}</dl>`,
    ...(proven.length === 0
      ? []
      : [`<ul class="proven">${proven.map((line) => `<li>${escapeHtml(line)}</li>`).join('')}</ul>`]),
    ...(report.timeline.length > 0 ? [timelineChart(report)] : []),
    ...(report.samples.length > 0 ? [convergenceChart(report)] : []),
    `<details><summary>As text</summary><pre>${escapeHtml(summary(report))}</pre></details>`,
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>${escapeHtml(title)}</title><style>${style}</style></head><body>
<h1 class="${good ? 'ok' : 'bad'}">${escapeHtml(title)}</h1>
<p class="when">${escapeHtml(when(report.startedAt))}</p>
${parts.join('\n')}
<script type="application/json" id="report">${embedJson(report)}</script>
</body></html>
`;
}

/** "2026-01-31 12:00:00 UTC" */
function when(iso: string): string {
  return iso.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}
