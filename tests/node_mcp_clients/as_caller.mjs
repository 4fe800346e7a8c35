// Loaded before the conformance suite, which has no option for headers: all that it sends carries those of $CALLER.
import http from 'node:http';
import { createRequire, syncBuiltinESMExports } from 'node:module';

const caller = JSON.parse(process.env.CALLER);
const suite = new URL('node_modules/@modelcontextprotocol/conformance/package.json', import.meta.url);
const { Agent, setGlobalDispatcher } = createRequire(suite)('undici');

// fetch and undici: headers come as a flat list, as pairs, or as an object
const flat = (headers) => {
  if (Array.isArray(headers)) return headers;
  return typeof headers?.[Symbol.iterator] === 'function' ? [...headers].flat() : Object.entries(headers ?? {}).flat();
};
const added = Object.entries(caller).flat();
setGlobalDispatcher(
  new Agent().compose((dispatch) => (options, handler) =>
    dispatch({ ...options, headers: [...flat(options.headers), ...added] }, handler)),
);

// node:http, by which the suite sends headers that fetch would put right
const request = http.request;
http.request = (...given) => {
  const sent = request(...given);
  for (const [name, value] of Object.entries(caller)) sent.setHeader(name, value);
  return sent;
};
syncBuiltinESMExports();
