"use strict";
// Cost by day as bars.

(() => {
  const place = document.querySelector("[data-days]");
  if (!place || typeof uPlot === "undefined") return;
  const rows = JSON.parse(place.dataset.days);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DAY = 86400;
  const costs = new Map(rows.map((row) => [Date.parse(row.day) / 1000, row.cost]));
  const last = Math.max(...costs.keys());
  const first = Math.min(last - 13 * DAY, ...costs.keys());
  // Days without use are days too.
  const days = Array.from({ length: (last - first) / DAY + 1 }, (_, at) => first + at * DAY);
  const data = [days, days.map((day) => costs.get(day) ?? 0)];
  const named = (seconds) => new Date(seconds * 1000).toLocaleDateString([], { day: "numeric", month: "short", timeZone: "UTC" });
  let chart = null;

  const room = () => ({ width: place.parentElement.clientWidth - 40, height: 180 });

  function draw() {
    chart?.destroy();
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    chart = new uPlot({
      ...room(),
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      scales: { x: { range: [first - DAY, last + DAY] }, y: { range: (_, __, most) => [0, most || 1] } },
      axes: [{ ...axis, space: 80, incrs: [DAY, 2 * DAY, 7 * DAY, 28 * DAY], values: (_, ticks) => ticks.map(named) }, axis],
      series: [{ label: "Day", value: (_, seconds) => (seconds === null ? "–" : named(seconds)) }, { label: place.dataset.currency, fill: color("--accent"), stroke: color("--accent"), paths: uPlot.paths.bars({ size: [0.6, 40] }), points: { show: false } }],
    }, data, place);
  }

  draw();
  document.addEventListener("theme", draw);
  addEventListener("resize", () => chart.setSize(room()));
})();
