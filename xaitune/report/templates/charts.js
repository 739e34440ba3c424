// A line chart in an SVG of the page. `series`: [{name, kind, dashed, points: [[x, y]], band: [[x, low, high]]}], where `kind` is a
// class of the style sheet; `marks`: vertical lines [{x, dashed}]; `whole`: x has whole numbers alone.
function lineChart(svg, { series, xLabel, yLabel, xRange, yRange, marks = [], whole = false, format = (y) => y.toFixed(2) }) {
  const width = 520, height = 250, left = 52, right = 10, top = 30, bottom = 40;
  const element = (tag, attributes, text) => {
    const made = document.createElementNS(svg.namespaceURI, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const points = series.flatMap((line) => line.points.filter(([, y]) => y !== null));
  const [x0, x1] = xRange || [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  const [y0, y1] = yRange || [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => top + (1 - (value - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const path = (line) => line.map(([a, b], i) => (i ? "L" : "M") + x(a).toFixed(1) + " " + y(b).toFixed(1)).join("");
  svg.setAttribute("viewBox", "0 0 " + width + " " + height);
  svg.replaceChildren();
  if (!points.length) {
    svg.append(element("text", { x: left, y: height / 2 }, "nothing is switched on"));
    return;
  }
  for (let i = 0; i <= 4; i++) {
    const level = y0 + (i / 4) * (y1 - y0);
    svg.append(element("line", { class: "grid-line", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
    svg.append(element("text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, format(level)));
  }
  const ticks = whole ? Math.max(Math.min(4, x1 - x0), 1) : 4;
  for (let i = 0; i <= ticks; i++) {
    const place = x0 + (i / ticks) * (x1 - x0), shown = whole ? Math.round(place) : Number(place.toFixed(2));
    svg.append(element("text", { x: x(shown), y: height - bottom + 16, "text-anchor": "middle" }, shown));
  }
  svg.append(element("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
  svg.append(element("text", { x: 4, y: 14 }, yLabel));
  for (const { x: place, dashed } of marks) {
    svg.append(element("line", { class: "at" + (dashed ? " dashed" : ""), x1: x(place), x2: x(place), y1: top, y2: height - bottom }));
  }
  for (const { kind, dashed, points: line, band } of series) {
    if (band) {
      const edge = [...band.map(([a, , high]) => [a, high]), ...band.map(([a, low]) => [a, low]).reverse()];
      svg.append(element("path", { class: "band " + kind, d: path(edge) + "Z" }));
    }
    const known = line.filter(([, value]) => value !== null);
    svg.append(element("path", { class: "line " + kind + (dashed ? " dashed" : ""), d: path(known) }));
  }
}
