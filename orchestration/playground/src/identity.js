// Who the playground is: in debug a stable random user of this browser, otherwise the console's session.

const USER_KEY = "agentbackend.playground.user";

/** A random version 4 UUID; `crypto.randomUUID` needs a secure context, this does not. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** This browser's user; a new one when storage is not available. */
export function browserUser() {
  try {
    const kept = localStorage.getItem(USER_KEY);
    if (kept) return kept;
    const made = uuid();
    localStorage.setItem(USER_KEY, made);
    return made;
  } catch {
    return uuid();
  }
}

/** The headers that say who asks. A page outside debug sends none: the console's cookie goes by itself. */
export function identityHeaders({ debug }, role) {
  if (!debug) return {};
  const user = browserUser();
  return {
    "X-Supabase-User-ID": user,
    "X-Supabase-User-Email": `${user.slice(0, 8)}@playground.invalid`,
    "X-Supabase-User-Role": role,
  };
}
