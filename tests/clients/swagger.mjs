// Opens Swagger UI, puts an object with "Try it out", gets it back, and keeps a picture of each step.
// Run by swagger.sh. Fails on a wrong answer, on a script error, and on a page that loads anything from elsewhere.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(process.env.PLAYWRIGHT_FROM)("playwright-core");
const [node, pictures, executablePath] = process.argv.slice(2);
const base = `http://${node}`;
const id = `swagger ü/${Date.now()}`;
const value = Buffer.from("from the browser").toString("base64");

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
page.setDefaultTimeout(15_000);
const problems = [];
page.on("pageerror", (error) => problems.push(`script error: ${error}`));
page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(base) && !url.startsWith("data:") && !url.startsWith("blob:")) {
        problems.push(`loads ${url}`);
    }
});
page.on("response", (response) => {
    if (response.status() >= 400 && !response.url().endsWith("/favicon.ico")) {
        problems.push(`${response.status()} for ${response.url()}`);
    }
});

/** Opens one operation and presses "Try it out". */
async function tryOut(method, operation) {
    const block = page.locator(`.opblock-${method}`, {
        has: page.locator(`[data-path="${operation}"]`),
    });
    await block.locator(".opblock-summary").click();
    await block.getByRole("button", { name: "Try it out" }).click();
    return block;
}

/** Presses "Execute" and gives the answer's status and body as the page shows them. */
async function execute(block) {
    await block.getByRole("button", { name: "Execute" }).click();
    const live = block.locator(".live-responses-table .response");
    await live.waitFor();
    const status = await live.locator(".response-col_status").innerText();
    return { status: status.trim().split(/\s/)[0], body: await live.innerText() };
}

try {
    for (const start of ["/swagger/index.html", "/nomad/swagger-ui/"]) {
        await page.goto(base + start);
        await page.locator(".opblock").first().waitFor();
    }
    await page.goto(`${base}/swagger/index.html`);
    const put = await tryOut("post", "/nomad/storage/put");
    await put.locator("textarea.body-param__text").fill(JSON.stringify({ id, value }));
    const stored = await execute(put);
    await put.screenshot({ path: path.join(pictures, "put.png") });
    assert.equal(stored.status, "200", stored.body);
    assert.match(stored.body, /"result":\s*true/);

    const get = await tryOut("get", "/nomad/storage/get/{id}");
    await get.locator('tr[data-param-name="id"] input').fill(id);
    const found = await execute(get);
    await get.screenshot({ path: path.join(pictures, "get.png") });
    await page.screenshot({ path: path.join(pictures, "page.png"), fullPage: true });
    assert.equal(found.status, "200", found.body);
    assert.ok(found.body.includes(value) && found.body.includes(id), found.body);
    assert.deepEqual(problems, []);
    console.log(`put and get of "${id}" worked; pictures in ${pictures}`);
} catch (error) {
    await page.screenshot({ path: path.join(pictures, "failed.png"), fullPage: true });
    console.error(problems.join("\n"));
    throw error;
} finally {
    await browser.close();
}
