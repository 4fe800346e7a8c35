// A thread as the service holds it: its messages, drawn like runs that have ended.

import { element } from "./dom.js";

/** What the user said, as a bubble. */
export function userBubble(content) {
  return element("div", { class: "bubble user", text: plainText(content) });
}

/**
 * Draw the messages of a thread into `log`. `makeView` gives a RunView for each turn. Returns the last one, which is left open for
 * what is still to come; null when the last message is the user's.
 */
export function drawHistory(messages, log, makeView) {
  let view = null;
  const close = () => view?.close(null, "restored");
  for (const message of messages) {
    if (message.role === "user") {
      close();
      view = null;
      log.append(userBubble(message.content));
    } else if (["assistant", "tool", "reasoning"].includes(message.role)) {
      if (!view) log.append((view = makeView()).root);
      view.restore(message);
    }
  }
  return view;
}

/** Text of a message's content, which may be a list of parts. */
export function plainText(content) {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => part.text ?? `[${part.type}]`).join("\n");
}
