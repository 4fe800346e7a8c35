// Bundles the page's scripts into the static folder. The output depends on the sources and the lock file only.
//
//   node build.mjs [folder]     the folder to write to; without it the one that is committed

import { build } from "esbuild";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const output = resolve(process.argv[2] ?? join(here, "../static/playground"));

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.js"],
  outfile: join(output, "playground.js"),
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // licences stand in LICENSES beside the bundle
  define: { "process.env.NODE_ENV": '"production"' },
  metafile: true,
});
await build({ absWorkingDir: here, entryPoints: ["src/theme.js"], outfile: join(output, "theme.js"), format: "iife", minify: true, target: "es2022" });

const { bytes } = Object.values(result.metafile.outputs)[0];
console.log(`playground.js: ${Math.round(bytes / 1024)} KB`);
