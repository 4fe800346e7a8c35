// A run as a command for the terminal.

/** The POST of a run as a curl command. A run id is used once, so the command leaves a new one to the shell. */
export function asCurl({ origin, path, headers, threadId, text }) {
  const body = {
    threadId,
    runId: "RUN_ID",
    protocolVersion: "1.0",
    state: {},
    messages: [{ id: "MESSAGE_ID", role: "user", content: text }],
    tools: [],
    context: [],
    forwardedProps: {},
  };
  const sent = { "Content-Type": "application/json", Accept: "text/event-stream", ...headers };
  const lines = [
    `curl -N -X POST ${quoted(origin + path)}`,
    ...Object.entries(sent).map(([name, value]) => `  -H ${quoted(`${name}: ${value}`)}`),
    `  -d ${quoted(JSON.stringify(body)).replace("RUN_ID", "'\"$(uuidgen)\"'").replace("MESSAGE_ID", "'\"$(uuidgen)\"'")}`,
  ];
  return lines.join(" \\\n");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
