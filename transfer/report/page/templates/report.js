"use strict";
// Sorting by a column's button, filtering rows and columns, two checkpoints side by side, theme.
// Numbers come computed (data-sort, and the JSON in #pairs); nothing is fetched.
(function () {
  var root = document.documentElement;
  var status = document.getElementById("status");

  function all(selector, within) {
    return Array.prototype.slice.call((within || document).querySelectorAll(selector));
  }

  function say(text) { if (status) { status.textContent = text; } }

  all(".scripted").forEach(function (part) { part.hidden = false; });

  // Sorting: the largest number first; what was not run comes last in both directions
  function key(row, index) {
    var cell = row.cells[index];
    return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : cell.textContent.trim();
  }

  function compare(a, b, sign) {
    if (a === "" || b === "") { return (a === "") - (b === ""); }
    var x = Number(a), y = Number(b);
    return sign * (isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
  }

  // The main table may have several blocks, whose rows stay in one order
  var blocks = all("table.results");

  function place(row) { return row.getAttribute("data-place"); }

  function sortBy(table, header) {
    var index = header.cellIndex, body = table.tBodies[0];
    var before = header.getAttribute("aria-sort");
    var first = header.getAttribute("data-first") ||
      (header.classList.contains("num") ? "descending" : "ascending");
    var other = first === "ascending" ? "descending" : "ascending";
    var order = before === first ? other : first;
    var tables = blocks.indexOf(table) < 0 ? [table] : blocks;
    tables.forEach(function (part) {
      all("th[aria-sort]", part).forEach(function (cell) { cell.setAttribute("aria-sort", "none"); });
    });
    header.setAttribute("aria-sort", order);
    var sign = order === "ascending" ? 1 : -1;
    Array.prototype.slice.call(body.rows)
      .sort(function (a, b) { return compare(key(a, index), key(b, index), sign); })
      .forEach(function (row) { body.appendChild(row); });
    tables.forEach(function (part) {
      if (part === table) { return; }
      var rows = {};
      all("tr", part.tBodies[0]).forEach(function (row) { rows[place(row)] = row; });
      all("tr", body).forEach(function (row) { part.tBodies[0].appendChild(rows[place(row)]); });
    });
    var button = header.querySelector("button");
    say("Sorted by " + (button.getAttribute("aria-label") || button.textContent.trim()) + ", " + order + ".");
  }

  all("table.sortable button.sort").forEach(function (button) {
    button.addEventListener("click", function () {
      sortBy(button.closest("table"), button.closest("th"));
    });
  });

  // Filters: rows of every table by name, method or backbone; columns of the main table by task
  var filter = document.getElementById("filter"), task = document.getElementById("task");

  function applyFilters() {
    var wanted = filter.value.trim().toLowerCase(), chosen = task ? task.value : "";
    all(".results [data-task]").forEach(function (cell) {
      cell.hidden = chosen !== "" && cell.getAttribute("data-task") !== chosen;
    });
    blocks.forEach(function (part, number) {  // the first one has the boxes to tick
      part.parentNode.hidden = number > 0 && !part.querySelector("thead .num:not([hidden])");
    });
    all("tr[data-name]").forEach(function (row) {
      row.hidden = row.getAttribute("data-name").indexOf(wanted) < 0;
    });
    var rows = Array.prototype.slice.call(document.getElementById("main").tBodies[0].rows);
    var shown = rows.filter(function (row) { return !row.hidden; }).length;
    say(wanted || chosen ? shown + " of " + rows.length + " checkpoints" +
      (chosen ? ", columns of " + chosen : "") + "." : "");
  }

  if (filter) { filter.addEventListener("input", applyFilters); }
  if (task) { task.addEventListener("change", applyFilters); }
  var published = document.getElementById("published");
  if (published) {
    var showPublished = function () {
      all(".results tbody.published").forEach(function (part) { part.hidden = !published.checked; });
    };
    published.addEventListener("change", showPublished);
    showPublished();
  }

  // Theme: the system's, light or dark; kept where the browser keeps things for local files
  var button = document.getElementById("theme"), themes = ["system", "light", "dark"];

  function setTheme(name) {
    if (name === "system") { root.removeAttribute("data-theme"); } else { root.setAttribute("data-theme", name); }
    button.textContent = "Theme: " + name;
    try { localStorage.setItem("report-theme", name); } catch (error) { /* private window */ }
  }

  var kept = null;
  try { kept = localStorage.getItem("report-theme"); } catch (error) { /* private window */ }
  if (themes.indexOf(kept) > 0) { setTheme(kept); }
  button.addEventListener("click", function () {
    var now = root.getAttribute("data-theme") || "system";
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  // Printing shows what is folded
  window.addEventListener("beforeprint", function () {
    all("details:not([open])").forEach(function (part) { part.open = true; part.setAttribute("data-folded", ""); });
  });
  window.addEventListener("afterprint", function () {
    all("details[data-folded]").forEach(function (part) { part.open = false; part.removeAttribute("data-folded"); });
  });

  // Two checkpoints
  var first = document.getElementById("first"), second = document.getElementById("second");
  if (!first) { return; }
  var data = JSON.parse(document.getElementById("pairs").textContent);
  var only = document.getElementById("only"), every = document.getElementById("every");
  var rule = document.head.appendChild(document.createElement("style"));

  function cell(row, text, css, sort) {
    var made = row.appendChild(document.createElement(row.cells.length ? "td" : "th"));
    if (made.tagName === "TH") { made.scope = "row"; }
    made.textContent = text;
    if (css) { made.className = css; }
    if (sort !== undefined) { made.setAttribute("data-sort", sort); }
  }

  function signed(value) { return (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(1); }

  function fillTable(a, b) {
    var sign = a < b ? 1 : -1, body = document.querySelector("#pair tbody");
    var rows = data.pairs[Math.min(a, b) + "-" + Math.max(a, b)] || [];
    body.textContent = "";
    [["first-head", a], ["second-head", b]].forEach(function (head) {  // the name with its places to break
      var name = document.querySelector('#main tr[data-row="' + head[1] + '"] .name');
      document.getElementById(head[0]).replaceChildren(name.cloneNode(true));
    });
    document.getElementById("pair-words").textContent = data.labels[a] + " (" + data.units[a] + ") minus " +
      data.labels[b] + " (" + data.units[b] + "), percentage points. Detectable: the smallest true " +
      "difference that these trials and images resolve 80 % of the time. Bars by class: to the right, " +
      data.labels[a] + " is higher.";
    all("#pair th[aria-sort]").forEach(function (header) { header.setAttribute("aria-sort", "none"); });
    if (!every.checked) {
      rows = rows.filter(function (found) { return data.columns[found[0]].headline; });
    }
    rows.forEach(function (found) {
      var column = data.columns[found[0]], row = body.insertRow(), difference = sign * found[1];
      var ends = found[2] === null ? null : [sign * found[2], sign * found[3]].sort(function (x, y) { return x - y; });
      cell(row, column.protocol + ": " + column.metric, "wrap");
      cell(row, signed(difference), "num mean", difference);
      cell(row, ends ? signed(ends[0]) + " to " + signed(ends[1]) : "none", "num");
      if (data.covers[found[6]]) {
        var covers = row.lastChild.appendChild(made("span", "over " + data.covers[found[6]]));
        covers.className = "interval";
      }
      cell(row, found[4], "verdict " + (found[4].indexOf("resolved") === 0 ? "mean" : "open"));
      cell(row, found[5] === null ? "unknown" : found[5].toFixed(1), "num", found[5] === null ? "" : found[5]);
      cell(row, column.texts[a], "num");
      cell(row, column.texts[b], "num");
    });
    if (!rows.length) {
      cell(body.insertRow(), a === b ? "Choose two different checkpoints." : "No protocol was run on both.");
      body.rows[0].cells[0].colSpan = 7;
    }
    return rows.length;
  }

  // Differences by class, as bars with the sign of the table: the first's gain is on the right
  var MIDDLE = 50, REACH = 32;  // percent of the drawing's width

  function classTable(found, sign, a, b) {
    var figure = made("figure"), table = made("table"), most = 0;
    figure.appendChild(table);
    table.className = "by-class";
    table.appendChild(made("caption", found.title));
    var body = table.createTBody();
    var rows = found.rows.map(function (row) { return [row[0], sign * row[1]]; });
    if (sign < 0) { rows.reverse(); }
    rows.forEach(function (row) { most = Math.max(most, Math.abs(row[1])); });
    rows.forEach(function (row) {
      var line = body.insertRow();
      cell(line, row[0], "class");
      cell(line, "", "track");
      var width = most ? REACH * Math.abs(row[1]) / most : 0, bar = made("span");
      bar.className = "bar";
      bar.style.background = "var(--c" + (row[1] < 0 ? b : a) % 8 + ")";
      bar.style.left = (row[1] < 0 ? MIDDLE - width : MIDDLE) + "%";
      bar.style.width = width + "%";
      var words = made("span", signed(row[1]));
      words.className = "words";
      words.style[row[1] < 0 ? "right" : "left"] = (MIDDLE + width) + "%";
      line.lastChild.appendChild(bar);
      line.lastChild.appendChild(words);
    });
    return figure;
  }

  // Test images of the pair, in the order of their disagreement; figures are the page's templates
  var FIRST_IMAGES = 6;

  function made(tag, text) {
    var part = document.createElement(tag);
    if (text) { part.textContent = text; }
    return part;
  }

  function imageRow(gallery, number, found, a, b) {
    var row = made("li"), two = made("div");
    row.appendChild(made("p", "Image " + gallery.names[found[0]] + ", disagreement " + found[1].toFixed(2)));
    two.className = "two";
    [a, b].forEach(function (series) {
      var figure = two.appendChild(made("figure")), caption = figure.appendChild(made("figcaption"));
      caption.appendChild(document.querySelector('#main tr[data-row="' + series + '"] svg.key').cloneNode(true));
      caption.appendChild(document.createTextNode(data.labels[series] + ", " + gallery.trials[series]));
      figure.appendChild(document.getElementById("panel-" + number + "-" + series + "-" + found[0]).content.cloneNode(true));
      if (!figure.querySelector(".right, .wrong, .aside")) {
        caption.appendChild(document.createTextNode(": no box with a score of " + data.least + " or more"));
      }
    });
    row.appendChild(two);
    return row;
  }

  function showImages(a, b) {
    var place = document.getElementById("pair-images"), shown = 0;
    if (!place) { return; }
    place.textContent = "";
    data.galleries.forEach(function (gallery, number) {
      var order = gallery.orders[Math.min(a, b) + "-" + Math.max(a, b)];
      if (!order) { return; }
      shown += 1;
      place.appendChild(made("h4", gallery.label));
      var list = place.appendChild(made("ol"));
      function add(found) { list.appendChild(imageRow(gallery, number, found, a, b)); }
      order.slice(0, FIRST_IMAGES).forEach(add);
      if (order.length > FIRST_IMAGES) {
        var more = place.appendChild(made("button", "All " + order.length + " images of " + gallery.label));
        more.type = "button";
        more.addEventListener("click", function () {
          order.slice(FIRST_IMAGES).forEach(add);
          more.remove();
        });
      }
    });
    if (!shown) { place.appendChild(made("p", "There are no images to show: no protocol stored test images of both.")); }
  }

  function showPair(quiet) {
    var a = Number(first.value), b = Number(second.value), low = Math.min(a, b), high = Math.max(a, b);
    var found = fillTable(a, b), charts = document.getElementById("pair-charts");
    charts.textContent = "";
    (data.classes[low + "-" + high] || []).forEach(function (table) {
      charts.appendChild(classTable(table, a < b ? 1 : -1, a, b));
    });
    showImages(a, b);
    all(".pick").forEach(function (box) {
      box.checked = Number(box.value) === a || Number(box.value) === b;
      all('.results tr[data-row="' + box.value + '"]').forEach(function (row) {
        row.classList.toggle("picked", box.checked);
      });
    });
    root.classList.toggle("only", only.checked);
    rule.textContent = ".only #figures .r" + a + ", .only #figures .r" + b + " { opacity: 1; }";
    if (!quiet) {
      say("Comparing " + data.labels[a] + " and " + data.labels[b] + ": " + found + " metrics that both have, below.");
    }
  }

  [first, second, every, only].forEach(function (part) {
    part.addEventListener("change", function () { showPair(false); });
  });
  document.getElementById("swap").addEventListener("click", function () {
    var before = first.value;
    first.value = second.value;
    second.value = before;
    showPair(false);
  });
  // A third tick replaces the older of two
  all(".pick").forEach(function (box) {
    box.addEventListener("change", function () {
      if (box.checked) {
        first.value = second.value;
        second.value = box.value;
        showPair(false);
      } else {
        say("Tick another row to compare it.");
        all('.results tr[data-row="' + box.value + '"]').forEach(function (row) {
          row.classList.remove("picked");
        });
      }
    });
  });
  showPair(true);
}());
