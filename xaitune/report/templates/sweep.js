// A cell of the sweep's table leads to its learning curves and its confusion matrix.
if (report.sweep && byId("cell")) {
  const { cells, classes, best, titles } = report.sweep;
  const switches = { score: byId("c-score"), val_loss: byId("c-val-loss"), train_loss: byId("c-train-loss") };
  const colours = { score: "one", val_loss: "two", train_loss: "three" };
  let chosen = best;

  const lines = (name, kinds, dashed) => cells[name].runs.flatMap((run) =>
    kinds.filter((kind) => switches[kind].checked).map((kind) => (
      { kind: colours[kind], dashed, points: run[kind].map((value, i) => [i + 1, value]) })));

  function curves(svg, kinds, yLabel) {
    const beside = byId("c-beside").checked && chosen !== best ? lines(best, kinds, true) : [];
    const series = [...beside, ...lines(chosen, kinds, false)], own = cells[chosen].runs[0];
    svg.parentElement.hidden = !kinds.some((kind) => switches[kind].checked);
    lineChart(svg, { series, xLabel: "epoch", whole: true, yLabel, marks: own && own.head ? [{ x: own.head + 0.5, dashed: true }] : [] });
    const last = lines(chosen, kinds, false).map((line) => line.points.at(-1)[1]);
    svg.setAttribute("aria-label", yLabel + " of " + titles[chosen] + " over the epochs; at the last epoch " + last.join(", "));
  }

  function matrix(counts) {
    const table = byId("c-confusion"), head = make("tr"), body = make("tbody");
    table.parentElement.hidden = !counts;
    if (!counts) return;
    head.append(...["true", ...classes].map((name) => {
      const cell = Object.assign(make("th"), { scope: "col" });
      cell.append(make("span", name));
      return cell;
    }));
    counts.forEach((row, i) => {
      const line = make("tr"), total = Math.max(row.reduce((sum, count) => sum + count, 0), 1);
      line.append(Object.assign(make("th", classes[i]), { scope: "row" }), ...row.map((count, j) =>
        make("td", String(count || "·"), "s" + Math.ceil((10 * count) / total) + (i === j ? " hit" : " miss"))));
      body.append(line);
    });
    const top = make("thead");
    top.append(head);
    table.replaceChildren(table.caption, top, body);
    table.classList.toggle("tall", classes.length > 4);
    table.caption.firstChild.textContent = "Test images of " + cells[chosen].run + " by true class (rows) and predicted class (columns).";
  }

  function show() {
    byId("c-title").textContent = titles[chosen] + (chosen === best ? ", the best combination on validation" : "");
    curves(byId("c-scores"), ["score"], "validation " + report.sweep.metric);
    curves(byId("c-losses"), ["val_loss", "train_loss"], "loss");
    matrix(cells[chosen].counts);
    byId("c-beside").parentElement.hidden = chosen === best;
    for (const button of document.querySelectorAll("#sweep-table button")) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === chosen));
    }
  }

  for (const cell of document.querySelectorAll("#sweep-table [data-cell]")) {
    const name = cell.dataset.cell, score = cell.querySelector("strong");
    if (!cells[name]) continue;
    const button = make("button", "", "open-cell");
    button.type = "button";
    button.dataset.cell = name;
    button.setAttribute("aria-label", score.textContent + ": show the curves and the confusion matrix of " + titles[name]);
    button.addEventListener("click", () => {
      chosen = name;
      show();
      byId("cell").scrollIntoView({ block: "nearest" });
    });
    score.replaceWith(button);
    button.append(score);
  }
  for (const box of [...Object.values(switches), byId("c-beside")]) box.addEventListener("change", show);
  byId("cell").hidden = false;
  show();
}
