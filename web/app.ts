import { setUpCompare } from './compare.js';
import { byId, make } from './dom.js';
import { watchGauges } from './gauges.js';
import { drawZeros, type ModelPage, showFacts } from './model.js';
import { chat, type Message, type Progress } from './stream.js';

const log = byId('log');
const prompt = byId<HTMLTextAreaElement>('prompt');
const send = byId<HTMLButtonElement>('send');
const stop = byId<HTMLButtonElement>('stop');
const again = byId<HTMLButtonElement>('again');
const speed = byId('speed');

let messages: Message[] = [];
let running: AbortController | null = null;

/** The sampling settings that are filled in. */
function settings(): Record<string, number> {
  const chosen: Record<string, number> = {};
  for (const name of ['temperature', 'top_p', 'top_k', 'repetition_penalty', 'max_tokens', 'seed']) {
    const { value, valueAsNumber } = byId<HTMLInputElement>(name);
    if (value !== '' && Number.isFinite(valueAsNumber)) chosen[name] = valueAsNumber;
  }
  return chosen;
}

function setRunning(controller: AbortController | null): void {
  running = controller;
  send.disabled = controller !== null;
  stop.disabled = controller === null;
  again.disabled = controller !== null || messages.at(-1)?.role === 'user' || messages.length === 0;
}

function describe({ tokens, speed: rate, firstTokenMs }: Progress): string {
  const parts = [`${tokens} tokens`];
  if (rate !== null) parts.push(`${rate.toFixed(1)} tok/s`);
  if (firstTokenMs !== null) parts.push(`first after ${Math.round(firstTokenMs)} ms`);
  return parts.join(' · ');
}

/** Changes the conversation and keeps its end in view; whoever has scrolled up reads on undisturbed. */
function follow(change: () => void): void {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function answer(): Promise<void> {
  const system = byId<HTMLTextAreaElement>('system').value.trim();
  const turn = make('div', 'turn assistant writing');
  const text = document.createTextNode('');
  turn.append(text);
  log.append(turn);
  log.scrollTop = log.scrollHeight;
  setRunning(new AbortController());
  try {
    const { signal } = running as AbortController;
    const body = {
      ...settings(),
      messages: system === '' ? messages : [{ role: 'system', content: system }, ...messages],
    };
    const done = await chat(body, signal, (progress) => {
      follow(() => {
        text.data = progress.text;
      });
      speed.textContent = describe(progress);
    });
    follow(() => {
      text.data = done.text;
      turn.append(make('span', 'note', `${describe(done)}${signal.aborted ? ' · stopped' : ''}`));
    });
    messages.push({ role: 'assistant', content: done.text });
  } catch (error) {
    turn.classList.add('failed');
    text.data = (error as Error).message;
    // The question stays in the box, to be asked again.
    prompt.value = messages.pop()?.content ?? '';
  }
  turn.classList.remove('writing');
  setRunning(null);
}

byId<HTMLFormElement>('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const content = prompt.value.trim();
  if (content === '' || running !== null) return;
  prompt.value = '';
  messages.push({ role: 'user', content });
  log.append(make('div', 'turn user', content));
  void answer();
});

prompt.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId<HTMLFormElement>('ask').requestSubmit();
});

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort();
});
stop.addEventListener('click', () => running?.abort());

again.addEventListener('click', () => {
  if (running !== null || messages.at(-1)?.role !== 'assistant') return;
  messages.pop();
  log.lastElementChild?.remove();
  void answer();
});

byId('clear').addEventListener('click', () => {
  running?.abort();
  messages = [];
  log.replaceChildren();
  speed.textContent = '';
  setRunning(null);
  prompt.focus();
});

const tabs = ['chat', 'compare'];
for (const name of tabs)
  byId(`tab-${name}`).addEventListener('click', () => {
    for (const other of tabs) {
      byId(`view-${other}`).hidden = other !== name;
      byId(`tab-${other}`).setAttribute('aria-selected', String(other === name));
    }
  });

async function loadModel(): Promise<ModelPage> {
  const response = await fetch('page/model.json');
  return (await response.json()) as ModelPage;
}

async function start(): Promise<void> {
  let model = await loadModel();
  showFacts(model);
  watchGauges(model.max_num_seqs);
  const most = byId<HTMLInputElement>('max_tokens');
  most.max = String(model.max_model_len);
  most.value = String(Math.min(512, Math.floor(model.max_model_len / 2)));
  if (model.compare.length > 0) {
    byId('tab-compare').hidden = false;
    setUpCompare(model.compare, () => ({ max_tokens: settings().max_tokens ?? 128 }));
  }
  while (model.zeros === null) {
    await new Promise((resolve) => setTimeout(resolve, 700));
    model = await loadModel();
  }
  drawZeros(model);
}

prompt.focus();
void start();
