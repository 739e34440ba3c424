// The numbers and true classes of the confusion matrix and of the table of classes lead to their images.
if (viewer && byId("confusion")) {
  const counts = report.counts, classes = report.viewer.classes;
  const link = (cell, chosen, what) => {
    const button = make("button", cell.textContent, "in-cell");
    button.type = "button";
    button.title = "Show " + what;
    button.setAttribute("aria-label", cell.textContent + ": show " + what);
    button.addEventListener("click", () => viewer.only(chosen, button));
    cell.replaceChildren(button);
  };
  for (const cell of document.querySelectorAll("#confusion [data-true], #per-class [data-true]")) {
    const truth = Number(cell.dataset.true), row = counts[truth];
    if (cell.dataset.predicted === undefined) {
      const total = row.reduce((sum, count) => sum + count, 0);
      if (total) link(cell, { truth, total }, "the images whose true class is " + classes[truth]);
    } else {
      const predicted = Number(cell.dataset.predicted);
      link(cell, { truth, predicted, total: row[predicted] }, classes[truth] + " predicted as " + classes[predicted]);
    }
  }
  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;
}
