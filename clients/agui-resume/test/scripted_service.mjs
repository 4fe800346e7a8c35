// A server that answers each request with the next of its script, for what a real service does not do on demand.

import { createServer } from "node:http";

/** `script` holds a function `(request, response)` for each request; `requests` what was asked, with the body as text. */
export class ScriptedService {
  constructor(...script) {
    this.script = script;
    this.requests = [];
    this.closed = [];
  }

  async [Symbol.asyncDispose]() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  static async serving(test, ...script) {
    const service = new ScriptedService(...script);
    service.server = createServer((request, response) => service.answer(request, response));
    await new Promise((resolve) => service.server.listen(0, "127.0.0.1", resolve));
    service.base = `http://127.0.0.1:${service.server.address().port}/ag-ui`;
    test.after(() => service[Symbol.asyncDispose]());
    return service;
  }

  async answer(request, response) {
    let body = "";
    for await (const chunk of request) body += chunk;
    const asked = { method: request.method, url: request.url, headers: request.headers, body };
    asked.gone = new Promise((resolve) => response.on("close", resolve));
    this.requests.push(asked);
    const act = this.script.shift();
    if (!act) return refuse(500, { code: "script_is_over", detail: "The script is over." })(request, response);
    await act(request, response);
  }
}

export const RUN = "run.1"; // a dot, because ids are split at the last one

const EVENTS = [
  { type: "RUN_STARTED", threadId: "t", runId: RUN },
  { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
  { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "Hel" },
  { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "lo\n\nworld ☀" },
  { type: "TEXT_MESSAGE_END", messageId: "m" },
  { type: "RUN_FINISHED", threadId: "t", runId: RUN },
];
export const LAST = EVENTS.length;

export const numbered = (from, to = from) =>
  EVENTS.slice(from - 1, to).map((event, index) => `id: ${RUN}.${from + index}\ndata: ${JSON.stringify(event)}\n\n`).join("");

export const unnumbered = (event) => `data: ${JSON.stringify(event)}\n\n`;

export const interrupted = unnumbered({ type: "RUN_ERROR", code: "stream_interrupted", message: "Later." });

/** Open a stream and send a text; then end it, destroy the socket (`cut`), or leave it open (`stay`). */
export const stream = (text, { then = "end", headers = {} } = {}) => (_, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8", "X-Run-ID": RUN, ...headers });
  response.write(text, () => {
    if (then === "end") response.end();
    if (then === "cut") response.destroy();
  });
};

export const destroy = (request) => request.socket.destroy();

export const refuse = (status, problem, headers = {}) => (_, response) => {
  response.writeHead(status, { "Content-Type": "application/problem+json", ...headers });
  response.end(JSON.stringify(problem));
};

export const nothing = (_, response) => {
  response.writeHead(204);
  response.end();
};
