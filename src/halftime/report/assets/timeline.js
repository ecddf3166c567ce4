// The call's time line: d3 scales, axis and zoom; one row for each depth of spans.
(() => {
  const ROW = 26, GAP = 4, AXIS = 24;
  const format = us => us === 0 ? "0" : us >= 1e6 ? `${d3.format(".4~g")(us / 1e6)} s` : us >= 1e3 ? `${d3.format(".4~g")(us / 1e3)} ms` : `${d3.format(".4~g")(us)} µs`;

  document.querySelectorAll(".timeline").forEach(root => {
    const calls = JSON.parse(root.dataset.calls);
    const svg = d3.select(root).select("svg");
    const axis = svg.append("g").attr("class", "axis");
    const bars = svg.append("g");
    const buttons = [...root.querySelectorAll("button")];
    let current = Object.keys(calls)[0], transform = d3.zoomIdentity;

    const zoom = d3.zoom().scaleExtent([1, 2000])
      .filter(event => event.type === "wheel" ? event.ctrlKey || event.metaKey : event.type !== "touchstart" || event.touches.length > 1)
      .on("zoom", event => { transform = event.transform; draw(); });

    function draw() {
      const call = calls[current], width = root.clientWidth || 720;
      const depths = 1 + d3.max(call.spans, span => span[2]), height = AXIS + depths * (ROW + GAP);
      svg.attr("viewBox", `0 0 ${width} ${height}`);
      zoom.extent([[0, 0], [width, height]]).translateExtent([[0, 0], [width, height]]);
      const x = transform.rescaleX(d3.scaleLinear([0, call.wall], [0, width]));
      axis.call(d3.axisTop(x).ticks(Math.max(2, width / 110)).tickFormat(format)).attr("transform", `translate(0,${AXIS - 4})`);
      const visible = call.spans.filter(([start, length]) => x(start + length) > 0 && x(start) < width);
      const groups = bars.selectAll("g").data(visible).join(enter => {
        const group = enter.append("g");
        group.append("rect").attr("height", ROW);
        group.append("text").attr("dy", ROW / 2 + 4);
        group.append("title");
        return group;
      });
      groups.attr("transform", span => `translate(${Math.max(0, x(span[0]))},${AXIS + span[2] * (ROW + GAP)})`);
      const pixels = span => Math.max(0.6, Math.min(width, x(span[0] + span[1])) - Math.max(0, x(span[0])));
      groups.select("rect").attr("width", pixels).attr("class", span => `series-${span[4]}`);
      groups.select("text").attr("dx", 4).text(span => pixels(span) > 6.5 * span[3].length + 8 ? span[3] : "");
      groups.select("title").text(span => `${span[3]} (${span[5]}): ${format(span[1])}, from ${format(span[0])}`);
    }

    buttons.forEach(button => button.addEventListener("click", () => {
      current = button.textContent;
      buttons.forEach(other => other.setAttribute("aria-pressed", other === button));
      svg.call(zoom.transform, d3.zoomIdentity);
    }));
    svg.node().addEventListener("keydown", event => {
      const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 }[event.key], shift = { ArrowLeft: 60, ArrowRight: -60 }[event.key];
      if (factor) svg.call(zoom.scaleBy, factor);
      else if (shift) svg.call(zoom.translateBy, shift / transform.k, 0);
      else if (event.key === "0") svg.call(zoom.transform, d3.zoomIdentity);
      else return;
      event.preventDefault();
    });
    svg.call(zoom).on("dblclick.zoom", () => svg.call(zoom.transform, d3.zoomIdentity));
    new ResizeObserver(draw).observe(root);
    draw();
  });
})();
