// Bundles the JSON editor of the tool pages into the static folder. The output depends on the sources and the lock file only.
//
//   node build.mjs [folder]     the folder to write to; without it the one that is committed

import { build } from "esbuild";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const output = resolve(process.argv[2] ?? join(here, "../static/tools"));

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/json_editor.js"],
  outfile: join(output, "json_editor.js"),
  bundle: true,
  format: "iife",
  minify: true,
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // licences stand in LICENSES beside the bundle
  define: { "process.env.NODE_ENV": '"production"' },
  metafile: true,
});

await writeFile(join(output, "LICENSES"), await licences(Object.keys(result.metafile.inputs)));

const { bytes } = Object.values(result.metafile.outputs)[0];
console.log(`json_editor.js: ${Math.round(bytes / 1024)} KB`);

/** The licence texts of the packages whose files are in the bundle. */
async function licences(inputs) {
  const packages = new Set(inputs.flatMap((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? []));
  const parts = ["Licences of the packages that json_editor.js contains.\n"];
  for (const name of [...packages].sort()) parts.push(await licence(name));
  return parts.join(`\n${"-".repeat(78)}\n\n`);
}

async function licence(name) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((file) => /^(licen[cs]e|notice)/i.test(file)).sort();
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  return `${name} ${version}: ${license}\n\n${texts.map((text) => text.replaceAll("\r\n", "\n").trim()).join("\n\n")}\n`;
}
