// A browser that is told what to do by lines of JSON, and answers each with one.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const PATIENCE = 240_000; // ms: only what hangs takes so long, however busy the machine is
const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox"],
  timeout: PATIENCE,
});
let context = null;
let page = null;
let asked = [];
let troubles = [];

const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

const DEEDS = {
  // A new page in a context of its own.
  async open({ url, width = 1440, height = 900, scheme = "light", density = 1 }) {
    await context?.close();
    [asked, troubles] = [[], []];
    context = await browser.newContext({
      viewport: { width, height },
      colorScheme: scheme,
      deviceScaleFactor: density,
      reducedMotion: "reduce",
    });
    context.setDefaultTimeout(PATIENCE);
    page = await context.newPage();
    page.on("request", (request) => asked.push(request.url()));
    page.on("pageerror", (error) => troubles.push(String(error)));
    page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
    await page.goto(url);
  },
  evaluate: ({ script }) => page.evaluate(script),
  // Until it is true. Playwright's own way would need eval, which the page forbids.
  async wait({ script, timeout }) {
    const end = Date.now() + timeout;
    while (!(await page.evaluate(script))) {
      if (Date.now() > end) throw new Error(`it did not come true: ${script}`);
      await page.waitForTimeout(50);
    }
  },
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  async seen() {
    return { asked, troubles };
  },
  async picture({ path, selector, full = false }) {
    const place = selector ? page.locator(selector) : page;
    await place.screenshot(selector ? { path } : { path, fullPage: full });
  },
  // What axe finds, from serious on. Its script goes around the page's CSP, as an extension would.
  async axe() {
    await context
      .newCDPSession(page)
      .then((session) => session.send("Runtime.evaluate", { expression: axe }));
    const found = await page.evaluate("axe.run()");
    return found.violations
      .filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => ({ id: one.id, help: one.help, nodes: one.nodes.map((node) => node.html) }));
  },
};

console.log(JSON.stringify({ value: "ready" }));
for await (const line of createInterface({ input: process.stdin })) {
  const { deed, ...given } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: (await DEEDS[deed](given)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error), troubles }));
  }
}
await browser.close();
