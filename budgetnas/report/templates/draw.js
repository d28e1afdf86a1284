
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  const colours = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--text").trim();
    const rule = style.getPropertyValue("--rule").trim();
    const changed = { "font.color": text };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      changed[`${axis}.gridcolor`] = rule;
      changed[`${axis}.linecolor`] = rule;
      changed[`${axis}.tickcolor`] = rule;
    }
    (layout.annotations ?? []).forEach(({ name }, place) => {
      if (name === "budget") changed[`annotations[${place}].font.color`] = style.getPropertyValue("--budget").trim();
    });
    return changed;
  };

  const tables = JSON.parse(document.getElementById("data").textContent);
  const save = ({ file, text }) => {
    // Spreadsheets detect UTF-8 only by a byte order mark.
    const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
    const link = Object.assign(document.createElement("a"), { href: address, download: file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  };
  for (const button of document.querySelectorAll("button.csv")) {
    button.hidden = false;
    button.addEventListener("click", () => save(tables[button.dataset.figure]));
  }

  for (const [key, figure] of Object.entries(figures)) {
    const place = document.getElementById(`figure-${key}`);
    Plotly.newPlot(place, figure.data, figure.layout, config).then(() => Plotly.relayout(place, colours(figure.layout)));
    dark.addEventListener("change", () => Plotly.relayout(place, colours(figure.layout)));
  }
})();
