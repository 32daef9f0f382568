import { byId, bytes, make, percent } from './dom.js';
import type { Variant } from './model.js';
import { chat } from './stream.js';

interface Column {
  variant: Variant;
  answer: HTMLElement;
  speed: HTMLElement;
  note: HTMLElement;
}

function column(variant: Variant): Column {
  const root = make('article', 'column');
  root.dataset.model = variant.name;
  const speed = make('div', 'fast', '–');
  const note = make('div', 'note');
  const answer = make('div', 'answer');
  const what = `${variant.format}, ${bytes(variant.weight_bytes)}, ${percent(variant.sparsity)} zeros`;
  root.append(make('h2', '', variant.label), make('div', 'note', what), speed, note, answer);
  byId('columns').append(root);
  return { variant, answer, speed, note };
}

/** The same question to every variant, one after the other, so that none slows another. */
export function setUpCompare(variants: readonly Variant[], settings: () => object): void {
  const columns = variants.map(column);
  const form = byId<HTMLFormElement>('compare-ask');
  const run = byId<HTMLButtonElement>('compare-run');
  const stop = byId<HTMLButtonElement>('compare-stop');
  let running: AbortController | null = null;
  stop.addEventListener('click', () => running?.abort());

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const prompt = byId<HTMLTextAreaElement>('compare-prompt').value.trim();
    if (prompt === '' || running !== null) return;
    running = new AbortController();
    const { signal } = running;
    run.disabled = true;
    stop.disabled = false;
    for (const { answer, speed, note } of columns) {
      answer.classList.remove('failure');
      answer.textContent = '';
      note.textContent = '';
      speed.textContent = '–';
    }
    for (const { variant, answer, speed, note } of columns) {
      if (signal.aborted) break;
      const body = {
        ...settings(),
        model: variant.name,
        messages: [{ role: 'user', content: prompt }],
        temperature: 0,
      };
      try {
        const done = await chat(body, signal, (progress) => {
          answer.textContent = progress.text;
          if (progress.speed !== null) speed.textContent = `${progress.speed.toFixed(1)} tok/s`;
        });
        note.textContent = `${done.tokens} tokens, first after ${Math.round(done.firstTokenMs ?? 0)} ms`;
      } catch (error) {
        answer.classList.add('failure');
        answer.textContent = (error as Error).message;
      }
    }
    running = null;
    run.disabled = false;
    stop.disabled = true;
  });
}
