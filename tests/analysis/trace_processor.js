// Perfetto's trace processor, the build that its own page runs: remote calls on stdin, replies on
// stdout. `node trace_processor.js FOLDER`; the folder holds engine_bundle.js and the .wasm files.
//
// The bundle is a web worker that loads its program by XMLHttpRequest and is called through a port.
"use strict";
const fs = require("fs"), path = require("path"), vm = require("vm");

const folder = process.argv[2];
class FromFolder {
  open(method, name) { this.name = name; }
  send() { this.response = fs.readFileSync(path.join(folder, this.name)); }
}
const worker = {location: {href: "file:///"}};
vm.runInNewContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), {
  self: worker, WorkerGlobalScope: true, XMLHttpRequest: FromFolder,
  Uint8Array, URL, TextDecoder, performance,
  console: {log: console.error, warn: console.error, error: console.error},
});
const port = {postMessage: reply => fs.writeSync(1, reply)};
worker.onmessage({data: port});
process.stdin.on("data", calls => port.onmessage({data: new Uint8Array(calls)}));
