// Missed images and false alarms of one class over the threshold on its probability.
if (report.thresholds && byId("threshold")) {
  const { grid, classes, names, first } = report.thresholds, on = byId("t-cost").dataset.on;
  const of = () => classes[Number(byId("t-class").value)];
  const ratio = () => Math.max(Number(byId("t-ratio").value) || 0, 0);

  // Of the thresholds with the lowest cost the middle one, as for the table below.
  function cheapest() {
    const { missed, false: alarms } = of().chosen, cost = missed.map((count, i) => ratio() * count + alarms[i]);
    const least = Math.min(...cost), lowest = [...cost.keys()].filter((i) => cost[i] === least);
    return lowest[Math.floor(lowest.length / 2)];
  }

  function figure(kind, total, what) {
    const place = Number(byId("t-at").value), { test, intervals } = of(), [low, high] = intervals[kind][place];
    return test[kind][place] + " of " + test[total] + " " + what + " (" + percent(test[kind][place] / test[total])
      + ", 95 % interval " + percent(low) + " to " + percent(high) + ")";
  }

  function show() {
    const place = Number(byId("t-at").value), { test, chosen, intervals } = of(), name = names[of().class];
    const curve = (kind, total, colour) => ({
      kind: colour,
      points: grid.map((t, i) => [t, test[kind][i] / test[total]]),
      band: grid.map((t, i) => [t, ...intervals[kind][i]]),
    });
    byId("t-value").textContent = grid[place];
    byId("t-at").setAttribute("aria-valuetext", String(grid[place]));
    byId("t-missed").textContent = figure("missed", "of", "test images of " + name);
    byId("t-false").textContent = figure("false", "others", "other test images");
    const cost = (counts) => ratio() * counts.missed[place] + counts.false[place];
    const each = (counts) => (cost(counts) / (counts.of + counts.others)).toFixed(2);
    byId("t-cost").textContent = ratio() + " × missed + false alarms = " + Number(cost(test).toFixed(2)) + " on test, " + each(test)
      + " an image; " + (on === "test" ? "" : each(chosen) + " an image on validation, where ") + grid[cheapest()] + " is the cheapest threshold";
    lineChart(byId("t-chart"), {
      series: [curve("missed", "of", "two"), curve("false", "others", "one")],
      xLabel: "threshold on the probability of " + name, yLabel: "share of test images",
      xRange: [0, 1], yRange: [0, 1], marks: [{ x: grid[place] }, { x: grid[cheapest()], dashed: true }], format: percent,
    });
    byId("t-chart").setAttribute("aria-label", "Missed images and false alarms over the threshold; at " + grid[place] + ": missed "
      + figure("missed", "of", "") + ", false alarms " + figure("false", "others", ""));
  }

  function choose() {
    byId("t-at").value = cheapest();
    show();
  }

  classes.forEach((row, i) => byId("t-class").append(Object.assign(make("option", names[row.class]), { value: i })));
  byId("t-class").value = first;
  byId("t-at").addEventListener("input", show);
  for (const id of ["t-class", "t-ratio"]) byId(id).addEventListener("input", choose);
  byId("t-choose").addEventListener("click", choose);
  byId("threshold").hidden = false;
  choose();
}
