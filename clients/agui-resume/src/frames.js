// The text of an event stream: cut into frames on the way in, written again on the way out.

/**
 * Cuts text into frames `{id, event, data, comment}`; what is not closed by an empty line is not handed on.
 * `data` is null in a frame without any: an id alone says how far what came before goes. `comment` is null in a frame with data.
 */
export class FrameReader {
  #rest = "";
  #lines = [];
  #isFirst = true;

  /** The frames that this piece of text completes. */
  take(text) {
    const frames = [];
    for (const line of this.#linesOf(text)) {
      if (line !== "") {
        this.#lines.push(line);
      } else if (this.#lines.length) {
        frames.push(frameOf(this.#lines));
        this.#lines = [];
      }
    }
    return frames;
  }

  /** A line may end in LF, CR LF or CR; a CR at the end of a piece may be half of a CR LF. */
  #linesOf(text) {
    let whole = this.#rest + text;
    if (this.#isFirst && whole) {
      whole = whole.replace(/^\uFEFF/, "");
      this.#isFirst = false;
    }
    const lines = whole.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines;
  }
}

function frameOf(lines) {
  const frame = { id: "", event: "", data: null, comment: null };
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon === 0) {
      frame.comment = (frame.comment === null ? "" : `${frame.comment}\n`) + line.slice(1).trim();
      continue;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") frame.data = frame.data === null ? value : `${frame.data}\n${value}`;
    else if (name === "id") frame.id = value;
    else if (name === "event") frame.event = value;
  }
  if (frame.data !== null) frame.comment = null;
  return frame;
}

/** A frame as text, with LF only: some AG-UI clients know no other end of a line. */
export function frameText({ id, data, comment }) {
  const idLine = id ? `id: ${id}\n` : "";
  if (data === null) return idLine ? `${idLine}\n` : `${(comment ?? "").replace(/^/gm, ": ")}\n\n`;
  return `${idLine}${data.replace(/^/gm, "data: ")}\n\n`;
}

/** `{runId, number}` of an event's id `{runId}.{number}`; null for any other text. */
export function eventId(text) {
  const [, runId, number] = /^(.+)\.(\d{1,15})$/.exec(text) ?? [];
  return runId ? { runId, number: Number(number) } : null;
}
