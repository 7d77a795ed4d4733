# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page that the exporter serves: it draws report.json, again every few seconds, and fetches nothing else."""

from __future__ import annotations

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>llama.cpp router</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dbe1; --paper: #f6f8fa; --card: #ffffff;
  --track: #e7ebef; --good: #1a7f4b; --warn: #9a6700; --bad: #b42318; --busy: #0b62c4; --rest: #6e56cf; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa7b4; --line: #333b45; --paper: #0f1318; --card: #171c22; --track: #2a323b;
    --good: #4ac27f; --warn: #e0b04a; --bad: #ff8a80; --busy: #6cb2ff; --rest: #b1a0ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 1.6rem 0 .6rem; }
.soft { color: var(--soft); } .small { font-size: .87rem; }
.pill { border: 1px solid currentColor; border-radius: 99px; padding: 0 .6rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .busy { color: var(--busy); }
.rest { color: var(--rest); }
ul { margin: .6rem 0; padding: .6rem .8rem; list-style: none; border-left: 3px solid currentColor;
  background: var(--card); border-radius: 4px; } ul:empty { display: none; } li { overflow-wrap: anywhere; }
.grid { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
#machine { align-items: start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .8rem;
  min-width: 0; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: .6rem; }
.head strong { overflow-wrap: anywhere; }
.row { display: flex; justify-content: space-between; gap: .8rem; margin-top: .45rem; font-size: .87rem; }
.row span:last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { height: 9px; border-radius: 5px; background: var(--track); overflow: hidden; position: relative;
  margin-top: .2rem; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: var(--busy); }
.bar i.plan { background: var(--busy); opacity: .25; } .bar i.over { background: var(--bad); }
.bar b { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink); }
ol { margin: 0; padding: 0; list-style: none; }
ol li { display: flex; gap: .8rem; padding: .2rem 0; border-bottom: 1px solid var(--line); }
ol time { color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums; }
ol li span { flex: 1; min-width: 0; }
body.stale main { opacity: .45; }
</style>
</head>
<body>
<header><h1 id="host">llama.cpp router</h1><span id="verdict" class="pill soft">asking</span>
<span id="router" class="soft"></span></header>
<ul id="reasons" class="bad"></ul>
<main>
<h2 id="models-title" hidden>Models</h2><div id="models" class="grid"></div>
<h2 id="machine-title" hidden>Machine</h2><div id="machine" class="grid"></div>
<h2 id="events-title" hidden>What happened</h2><ol id="events" class="small"></ol>
<h2 id="errors-title" hidden>Last errors in the log</h2><ul id="errors" class="small warn"></ul>
</main>
<p class="soft small" id="foot"></p>
<noscript><p>This page draws <a href="report.json">report.json</a> by a script. On the machine, llama-router-status says
the same.</p></noscript>
<script>
"use strict";
const SECONDS = 3;
const CLASSES = { healthy: "good", degraded: "warn", down: "bad", loaded: "good", loading: "busy", sleeping: "rest",
  failed: "bad", evicted: "warn", woken: "good" };
const id = name => document.getElementById(name);
const number = value => Math.round(value).toLocaleString("en");
const size = mib => mib >= 10240 ? (mib / 1024).toFixed(1) + " GiB" : number(mib) + " MiB";
const share = (part, mib) => (mib >= 10240 ? (part / 1024).toFixed(1) : number(part)) + " of " + size(mib);
function make(tag, classes, ...children) {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  node.append(...children.filter(child => child !== null && child !== ""));
  return node;
}
function span(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (seconds >= size) return Math.floor(seconds / size) + " " + unit;
  return Math.floor(seconds) + " s";
}
const times = count => count === 1 ? "once" : number(count) + " times";
function bar(parts, mark) {  // parts: [share, class]; mark: where the plan ends
  const node = make("div", "bar");
  for (const [share, kind] of parts) {
    const part = make("i", kind);
    part.style.width = Math.min(100, 100 * share) + "%";
    node.append(part);
  }
  if (mark !== undefined && mark < 1) {
    const line = make("b");
    line.style.left = 100 * mark + "%";
    node.append(line);
  }
  return node;
}
function row(name, value) { return make("div", "row", make("span", "soft", name), make("span", "", value)); }
function memory(entry, whole) {
  const used = entry.used_mib, planned = entry.planned_mib;
  if (!used && !planned) return [];
  const over = used && planned !== null && used > planned * 1.05, parts = [];
  if (planned) parts.push([planned / whole, "plan"]);
  if (used) parts.push([used / whole, over ? "over" : ""]);
  const words = used === null ? "planned " + size(planned) : planned === null ? size(used) : share(used, planned);
  return [row(entry.device, words), bar(parts)];
}
function model(entry, sizes) {
  const status = entry.failed ? "failed" : entry.status, past = entry.history, notes = [];
  if (entry.failed) notes.push("exit code " + entry.exit_code);
  if (entry.on_cpu) notes.push("on the CPU: " + entry.offloaded + " of " + entry.layers + " layers on a device");
  if (entry.pinned) notes.push("pinned");
  if (entry.ctx_size) notes.push(number(entry.ctx_size) + " tokens of context");
  if (past.answers) notes.push(number(past.answers) + (past.answers === 1 ? " answer" : " answers"));
  const since = past.seconds >= 1 ? " " + span(past.seconds) : "";
  const seen = "loaded " + times(past.loads) + (past.load_seconds === null ? "" : ", last in "
    + past.load_seconds.toFixed(1) + " s") + (past.evictions ? ", evicted " + times(past.evictions) : "");
  return make("div", "card",
    make("div", "head", make("strong", "", entry.id),
      make("span", "pill " + (CLASSES[status] || "soft"), status + since)),
    notes.length ? make("div", "small " + (entry.failed || entry.on_cpu ? "bad" : "soft"), notes.join(" · ")) : "",
    past.loads || past.evictions ? make("div", "small soft", seen) : "",
    ...entry.memory.flatMap(part => memory(part, sizes[part.device])));
}
function machine(report) {
  const cards = report.devices.map(device => make("div", "card", make("strong", "", device.name),
    row("taken by models", share(device.used_mib, device.usable_mib)),
    bar([[device.used_mib / device.total_mib, device.used_mib > device.usable_mib ? "over" : ""]],
      device.usable_mib / device.total_mib)));
  for (const gpu of report.gpus) cards.push(make("div", "card",
    make("strong", "", "GPU " + gpu.index + " " + gpu.product),
    ...(gpu.memory_used_mib === null || !gpu.memory_total_mib ? []
      : [row("memory", share(gpu.memory_used_mib, gpu.memory_total_mib)),
        bar([[gpu.memory_used_mib / gpu.memory_total_mib, ""]])]),
    gpu.utilization_percent === null ? "" : row("busy", gpu.utilization_percent + " %"),
    gpu.temperature_celsius === null ? "" : row("temperature", gpu.temperature_celsius + " °C"),
    gpu.power_watts === null ? "" : row("power", number(gpu.power_watts) + (gpu.power_limit_watts === null ? ""
      : " of " + number(gpu.power_limit_watts)) + " W"),
    gpu.throttling && gpu.throttling.length ? make("div", "small warn", "held down by " + gpu.throttling.join(", "))
      : ""));
  const ram = report.memory, disk = report.disk, used = ram.total_mib - ram.available_mib;
  const box = make("div", "card", make("strong", "", "Guest"),
    row("memory", share(used, ram.total_mib)), bar([[used / ram.total_mib, ""]]));
  if (disk.total_mib) box.append(row("models' disk", size(disk.free_mib) + " free of " + size(disk.total_mib)),
    bar([[1 - disk.free_mib / disk.total_mib, disk.free_mib < disk.total_mib / 20 ? "over" : ""]]));
  if (report.driver.agree !== null) box.append(row("driver", report.driver.agree ? report.driver.kernel_version
    : report.driver.kernel_version + " and " + report.driver.library_version));
  for (const shown of report.certificates) box.append(row("certificate of " + shown.address, shown.expires === null
    ? "not shown" : "until " + new Date(1000 * shown.expires).toLocaleDateString()));
  return [...cards, box];
}
function happened(event) {
  const more = event.seconds !== undefined ? " in " + event.seconds.toFixed(1) + " s"
    : event.exit_code !== undefined ? ", exit code " + event.exit_code : "";
  const at = new Date(event.at * 1000), today = at.toDateString() === new Date().toDateString();
  return make("li", "", make("time", "", today ? at.toLocaleTimeString() : at.toLocaleString()),
    make("span", "", event.model === "*" ? "presets" : event.model),
    make("strong", CLASSES[event.what] || "soft", event.what + more));
}
function fill(name, nodes) {
  id(name).replaceChildren(...nodes);
  const title = id(name + "-title");
  if (title) title.hidden = nodes.length === 0;
}
function draw(report) {
  const router = report.router;
  document.title = report.verdict + " on " + report.host;
  id("host").textContent = report.host;
  id("verdict").textContent = report.verdict;
  id("verdict").className = "pill " + CLASSES[report.verdict];
  id("router").textContent = router.up ? router.loaded.length + (router.limit ? " of at most " + router.limit : "")
    + " models loaded, build " + router.build : report.unit.name + " is " + report.unit.state;
  id("reasons").className = CLASSES[report.verdict];
  fill("reasons", report.reasons.map(reason => make("li", "", reason)));
  const sizes = { host: report.memory.total_mib };
  for (const device of report.devices) sizes[device.name] = device.total_mib;
  fill("models", report.models.map(entry => model(entry, sizes)));
  fill("machine", machine(report));
  fill("events", report.events.filter(event => event.what !== "loading").slice(0, 20).map(happened));
  fill("errors", report.unit.errors.map(error => make("li", "", error)));
  id("foot").textContent = "As of " + new Date(report.at * 1000).toLocaleTimeString() + ", again every " + SECONDS
    + " s." + (report.watch.journal ? "" : " The journal cannot be read: no memory, evictions, answers are known.");
}
async function again() {
  try {
    const answer = await fetch("report.json", { cache: "no-store", signal: AbortSignal.timeout(20000) });
    if (!answer.ok) throw new Error(answer.status);
    draw(await answer.json());
    document.body.className = "";
  } catch (error) {
    document.body.className = "stale";
    document.title = "no answer";
    id("verdict").textContent = "no answer";
    id("verdict").className = "pill bad";
  }
  setTimeout(again, 1000 * SECONDS);
}
again();
</script>
</body>
</html>
"""
