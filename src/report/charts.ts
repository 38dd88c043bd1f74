/** The drawings of a report, rendered to SVG text on this side: the page needs no script and no network. */

import { createRequire } from 'node:module';
import { duration } from './format.ts';
import type { MigrationReport, PrecopySample, TimelineSpan } from './types.ts';

// The one file that `require` gives: `import` opens seven hundred at once, for which many a machine has no descriptors, and takes three times as long.
const { init }: typeof import('echarts') = createRequire(import.meta.url)('echarts');

const width = 1000;
const rowHeight = 26;
const frameHeight = 90;
const convergenceHeight = 340;
const mib = 1024 * 1024;

function render(option: object, height: number): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height });
  try {
    chart.setOption({ animation: false, ...option });
    return chart.renderToSVGString();
  } finally {
    chart.dispose();
  }
}

function label(span: TimelineSpan): string {
  return span.device === undefined ? span.part : `${span.part} ${span.device}`;
}

/** What a custom series' renderer gets to place its shapes. */
interface ShapeApi {
  value(dimension: number): number;
  coord(point: [number, number]): [number, number];
}

const colours: Readonly<Record<TimelineSpan['part'], string>> = {
  detect: '#9aa5b1',
  quiesce: '#5b8ff9',
  marking: '#f6bd16',
  'msix-read': '#e8684a',
  continue: '#9aa5b1',
  'final-ram': '#6dc8ec',
  state: '#5ad8a6',
  carry: '#c2a33a',
  place: '#8d7220',
  replay: '#945fb9',
  verify: '#ff99c3',
  resume: '#1e9493',
};

/** The blackout: one bar for each part, milliseconds from the stop of the vCPUs. The comparison, which presses all else flat, takes up no room. */
export function timelineChart(report: MigrationReport): string {
  const spans = report.timeline;
  const rows = [...new Set(spans.map(label))];
  const compared = spans.filter(({ part }) => part === 'verify');
  const without = (us: number): number =>
    compared.reduce((left, { startUs, endUs }) => left - Math.max(0, Math.min(us, endUs) - startUs), us);
  const data = spans.map((span) => ({
    value: [rows.indexOf(label(span)), without(span.startUs) / 1000, without(span.endUs) / 1000],
    took: span.endUs - span.startUs,
    itemStyle: { color: colours[span.part] },
  }));
  const bar = ({ dataIndex }: { dataIndex: number }, api: ShapeApi): object => {
    const [startX, y] = api.coord([api.value(1), api.value(0)]);
    const [endX] = api.coord([api.value(2), api.value(0)]);
    const { took = 0, itemStyle } = data[dataIndex] ?? {};
    const length = Math.max(1, endX - startX);
    const height = rowHeight * 0.7;
    const shape = { x: startX, y: y - height / 2, width: length, height };
    // Some parts are too short to be seen beside others.
    const place = { x: startX + length + 6, y, verticalAlign: 'middle' };
    return {
      type: 'group',
      children: [
        { type: 'rect', shape, style: { fill: itemStyle?.color } },
        { type: 'text', style: { text: duration(took), ...place, fill: '#667', fontSize: 11 } },
      ],
    };
  };
  const name = `ms since the vCPUs stopped${compared.length > 0 ? ', the comparison left out' : ''}`;
  return render(
    {
      title: { text: 'Blackout', left: 0, textStyle: { fontSize: 14 } },
      grid: { left: 150, right: 80, top: 40, bottom: 45 },
      xAxis: { type: 'value', name, nameLocation: 'middle', nameGap: 28 },
      yAxis: { type: 'category', data: rows, inverse: true },
      series: [{ type: 'custom', renderItem: bar, encode: { x: [1, 2], y: 0 }, data }],
    },
    rows.length * rowHeight + frameHeight,
  );
}

/** The times in which QEMU was kept from switching over, as pairs of seconds. */
function heldTimes(samples: readonly PrecopySample[]): [from: number, to: number][] {
  const times: [number, number][] = [];
  let from: number | undefined;
  for (const { held, elapsedMs } of samples) {
    if (held) from ??= elapsedMs / 1000;
    else if (from !== undefined) {
      times.push([from, elapsedMs / 1000]);
      from = undefined;
    }
  }
  const last = samples.at(-1);
  if (from !== undefined && last !== undefined) times.push([from, last.elapsedMs / 1000]);
  return times;
}

/** Precopy: what remains of RAM and devices, and the estimate of the blackout beside its limit, over time. */
export function convergenceChart(report: MigrationReport): string {
  const { samples, downtimeLimitMs } = report;
  const line = (name: string, axis: number, value: (index: number) => number, more: object = {}): object => ({
    name,
    type: 'line',
    yAxisIndex: axis,
    // No more points than can be told apart, of a precopy of hours.
    sampling: 'lttb',
    showSymbol: samples.length < 40,
    data: samples.map(({ elapsedMs }, index) => [elapsedMs / 1000, value(index)]),
    ...more,
  });
  const held = heldTimes(samples).map(([from, to]) => [{ name: 'held', xAxis: from }, { xAxis: to }]);
  const label = { color: '#889', fontSize: 11 };
  const markArea = { silent: true, itemStyle: { color: 'rgba(217,142,0,.08)' }, label, data: held };
  const markLine = {
    ...{ silent: true, symbol: 'none', lineStyle: { type: 'dashed', color: '#b00020' } },
    label: { ...label, formatter: `limit ${downtimeLimitMs} ms`, position: 'insideEndTop' },
    data: [{ yAxis: downtimeLimitMs }],
  };
  const sum = (index: number, of: 'initialBytes' | 'dirtyBytes' | 'dirtyPages'): number =>
    (samples[index]?.devices ?? []).reduce((total, device) => total + device[of], 0);
  return render(
    {
      title: { text: 'Precopy', left: 0, textStyle: { fontSize: 14 } },
      legend: { top: 2, right: 30, itemGap: 24 },
      grid: { left: 70, right: 70, top: 70, bottom: 45 },
      xAxis: { type: 'value', name: 's', nameLocation: 'middle', nameGap: 26 },
      yAxis: [
        { type: 'value', name: 'MiB' },
        { type: 'value', name: 'ms', splitLine: { show: false } },
      ],
      series: [
        line('RAM left (MiB)', 0, (index) => (samples[index]?.ramRemaining ?? 0) / mib),
        line(
          'devices left (MiB)',
          0,
          (index) => (sum(index, 'initialBytes') + sum(index, 'dirtyBytes')) / mib,
        ),
        line('estimated blackout (ms)', 1, (index) => samples[index]?.estimateMs ?? 0, {
          markArea,
          markLine,
        }),
        line('the devices’ part of it (ms)', 1, (index) => samples[index]?.deviceEstimateMs ?? 0),
      ],
    },
    convergenceHeight,
  );
}
