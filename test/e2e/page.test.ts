/// <reference lib="dom" />
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';
import { babbles, type Fixture, says, serve, until } from '../unit/server/fixture.js';

const CHROMIUM = process.env.FILIGREE_TEST_CHROMIUM ?? '/usr/bin/chromium';
const missing = !existsSync(CHROMIUM)
  ? 'skipped, no Chromium: install Debian’s chromium or set FILIGREE_TEST_CHROMIUM'
  : !existsSync(join(PACKAGE_ROOT, 'dist/web/app.js'))
    ? 'skipped, not compiled: npm run build'
    : null;

describe.skipIf(missing)(`the page${missing ? ` (${missing})` : ''}`, () => {
  let browser: Browser;
  let fixture: Fixture;
  let origin: string;
  const complaints: string[] = [];
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  });
  afterAll(() => browser.close());
  afterEach(async () => {
    for (const context of browser.contexts()) await context.close();
    fixture.app.server.closeAllConnections();
    await fixture.close();
    expect(complaints.splice(0)).toEqual([]);
  });

  async function open(
    ...args: Parameters<typeof serve>
  ): Promise<(o?: BrowserContextOptions) => Promise<Page>> {
    fixture = await serve(...args);
    const { service } = fixture;
    service.model.picture = {
      layers: 2,
      zeros: () => ({ q_proj: [0.5, 0.7], down_proj: [0.25, null] }),
    };
    const variant = { ...service, model: { ...service.model, names: ['test-model:dense'] as [string] } };
    service.variants = new Map([['test-model:dense', { label: 'Dense', service: variant }]]);
    await fixture.app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = fixture.app.server.address() as { port: number };
    origin = `http://127.0.0.1:${port}`;
    return async (options = {}) => {
      const page = await (await browser.newContext(options)).newPage();
      page.on('pageerror', (error) => complaints.push(error.message));
      page.on('console', (message) => {
        if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
      });
      // Everything comes from the server itself.
      page.on('request', (request) => {
        if (!request.url().startsWith(origin)) complaints.push(`asked ${request.url()}`);
      });
      const response = await page.goto(origin);
      const policy = response?.headers()['content-security-policy'] ?? '';
      expect(policy).toContain("default-src 'none'");
      expect(policy).not.toContain('unsafe');
      return page;
    };
  }

  const answers = (page: Page) => page.locator('.turn.assistant').allTextContents();
  const ready = (page: Page) =>
    page.waitForFunction(() => !document.querySelector<HTMLButtonElement>('#again')?.disabled);

  it('chats by keyboard alone, shows speed and gauges, regenerates', async () => {
    const visit = await open(says('Hello <b>wörld</b> 🌍'));
    fixture.runner.stepMs = 5;
    const page = await visit();
    // The cursor stands in the box.
    await page.keyboard.type('First line');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('second');
    await page.keyboard.press('Enter');
    await ready(page);
    expect(await page.locator('.turn.user').textContent()).toBe('First line\nsecond');
    // Markup in an answer stays text.
    expect((await answers(page))[0]).toContain('Hello <b>wörld</b> 🌍');
    expect(await page.locator('#speed').textContent()).toMatch(
      /^25 tokens · [\d.]+ tok\/s · first after \d+ ms$/,
    );
    fixture.runner.script = says('Again.');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('again');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelector('.turn.assistant .note'));
    await ready(page);
    expect(await answers(page)).toHaveLength(1);
    expect((await answers(page))[0]).toContain('Again.');
    await until('gauges are read', () => true);
    await page.waitForFunction(() => document.querySelector('#text-kv')?.textContent?.includes('%'));
  });

  it('stops an answer, on the button and on Esc, and the server frees it', async () => {
    const visit = await open(babbles);
    fixture.runner.stepMs = 10;
    const page = await visit();
    for (const stop of [() => page.keyboard.press('Escape'), () => page.click('#stop')]) {
      await page.fill('#prompt', 'Go on');
      await page.keyboard.press('Enter');
      await page.waitForFunction(() => document.querySelector('.turn.writing')?.textContent);
      await stop();
      await ready(page);
      expect((await answers(page)).at(-1)).toContain('stopped');
      await until('its blocks are free', () => fixture.engine.stats().usedBlocks === 0);
    }
  });

  it('shows what the model is', async () => {
    const page = await (await open(says('x')))();
    await page.waitForSelector('#zeros .cell');
    expect(await page.locator('#facts').textContent()).toMatch(/Weights0\.0 MiB/);
    expect(await page.locator('#zeros .cell').count()).toBe(4);
    const heights = await page
      .locator('#zeros .cell')
      .evaluateAll((cells) => cells.map((c) => Number(c.getAttribute('height'))));
    expect(heights.map((h) => h / 13)).toEqual([0.5, 0.7, 0.25, 0]);
    expect(await page.locator('#zeros-caption').textContent()).toContain('48.3 %');
  });

  it('runs the variants side by side', async () => {
    const page = await (await open(says('Same.')))();
    await page.click('#tab-compare');
    await page.fill('#compare-prompt', 'Hi');
    await page.click('#compare-run');
    await page.waitForFunction(() =>
      document.querySelector('.column .note:nth-of-type(3)')?.textContent?.includes('tokens'),
    );
    expect(await page.locator('.column .answer').allTextContents()).toEqual(['Same.']);
  });

  it('says what the server refuses, and takes a key', async () => {
    const page = await (await open(says('ok'), { server: { apiKeys: ['secret'] } }))();
    await page.fill('#prompt', 'Hi');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.turn.failed');
    expect(await page.locator('.turn.failed').textContent()).toContain('key');
    expect(await page.inputValue('#prompt')).toBe('Hi');
    await page.fill('#key', 'secret');
    await page.click('#send');
    await ready(page);
    expect((await answers(page)).at(-1)).toContain('ok');
    // The browser itself notes the 401.
    expect(complaints.splice(0).every((text) => text.includes('401'))).toBe(true);
  });

  it('fits a phone and follows dark mode', async () => {
    const visit = await open(says('x'));
    const phone = await visit({ viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
    const [wide, view] = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    expect(wide).toBeLessThanOrEqual(view as number);
    for (const button of await phone.locator('button:visible').all())
      expect((await button.boundingBox())?.height).toBeGreaterThanOrEqual(35);
    const ink = (page: Page) => page.evaluate(() => getComputedStyle(document.body).color);
    const dark = await visit({ colorScheme: 'dark' });
    expect(await ink(dark)).not.toBe(await ink(phone));
  });
});
