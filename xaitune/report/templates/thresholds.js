// Missed images and false alarms of one class over the threshold on its probability.
if (report.thresholds && byId("threshold")) {
  const { grid, classes, names, first } = report.thresholds, on = byId("t-cost").dataset.on;
  const of = () => classes[Number(byId("t-class").value)];
  let price = Number(byId("t-ratio").value); // false alarms that a missed image costs as much as: the last valid entry
  const ratio = () => price, counted = (number) => number.toLocaleString("en");
  const costs = ({ missed, false: alarms }) => missed.map((count, i) => ratio() * count + alarms[i]);

  // Of the thresholds with the lowest cost the middle one, as in the table that was written into the page.
  function cheapest(row = of()) {
    const cost = costs(row.chosen), least = Math.min(...cost), lowest = [...cost.keys()].filter((i) => cost[i] === least);
    return lowest[Math.floor(lowest.length / 2)];
  }

  // What to say where no threshold costs less than one answer for all images.
  function useless() {
    const { chosen } = of(), name = names[of().class], least = Math.min(...costs(chosen));
    const never = ratio() * chosen.of, always = chosen.others;
    if (least < Math.min(never, always)) return "";
    return "No threshold helps for " + name + " at this cost: on " + on + " images, answering " + name + " for "
      + (never <= always ? "none" : "all") + " of them costs no more.";
  }

  // The table follows the cost.
  function tabulate() {
    byId("t-ratio-shown").textContent = ratio();
    document.querySelectorAll("#t-table tbody tr").forEach((line, i) => {
      const row = classes[i], place = cheapest(row), cells = line.querySelectorAll("td");
      cells[0].textContent = grid[place];
      [["missed", "of"], ["false", "others"]].forEach(([kind, total], k) => {
        const [low, high] = row.intervals[kind][place];
        cells[k + 1].replaceChildren(counted(row.test[kind][place]) + " of " + counted(row.test[total]) + " ",
          make("small", "[" + percent(low) + ", " + percent(high) + "]"));
      });
    });
  }

  // A cost that is no number above 0 is refused, and the last one stands.
  function accept() {
    const value = Number(byId("t-ratio").value), valid = value > 0 && Number.isFinite(value);
    byId("t-ratio").setAttribute("aria-invalid", String(!valid));
    byId("t-problem").textContent = valid ? "" : "The cost must be a number above 0. The figures below are for " + ratio() + ".";
    if (!valid) return;
    price = value;
    tabulate();
    choose();
  }

  function figure(kind, total, what) {
    const place = Number(byId("t-at").value), { test, intervals } = of(), [low, high] = intervals[kind][place];
    return counted(test[kind][place]) + " of " + counted(test[total]) + " " + what + " (" + percent(test[kind][place] / test[total])
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
    const cost = (counts) => costs(counts)[place];
    const each = (counts) => (cost(counts) / (counts.of + counts.others)).toFixed(2);
    byId("t-useless").textContent = useless();
    byId("t-useless").hidden = !useless();
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
  byId("t-class").addEventListener("input", choose);
  byId("t-ratio").addEventListener("input", accept);
  byId("t-choose").addEventListener("click", choose);
  byId("threshold").hidden = false;
  choose();
}
