import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { FiligreeError } from '../errors.js';
import { Fields, isObject, type JsonObject, parseObject } from './fields.js';
import type { TokenizerSource } from './manifest.js';
import { ReadableFile, readText } from './model-file.js';
import { readSentencePiece } from './sentencepiece.js';
import { spmTokenizerJson } from './spm-tokenizer.js';

const MAX_TOKENIZER_BYTES = 256 << 20;
const MAX_CONFIG_BYTES = 32 << 20;

const tokenizerError = (message: string) => new FiligreeError('tokenizer_invalid', message);

/** A JSON object in a folder, or null where the file is absent. */
export function readOptional(folder: string, name: string): JsonObject | null {
  const path = join(folder, name);
  return existsSync(path) ? parseObject(readText(path, MAX_CONFIG_BYTES), name) : null;
}

/**
 * The tokenizer of a Hugging Face folder: tokenizer.json, else a sentencepiece tokenizer.model, with what
 * tokenizer_config.json adds.
 *
 * @throws FiligreeError `tokenizer_invalid`
 */
export function readHfTokenizer(folder: string): TokenizerSource {
  const configJson = readOptional(folder, 'tokenizer_config.json') ?? {};
  const special = readOptional(folder, 'special_tokens_map.json') ?? {};
  const config = new Fields(configJson, 'tokenizer_config.json');
  const token = (key: string): string | null => {
    for (const source of [configJson, special]) {
      const value = Object.hasOwn(source, key) ? source[key] : undefined;
      if (typeof value === 'string') return value;
      if (isObject(value) && typeof value.content === 'string') return value.content;
    }
    return null;
  };
  const flag = (key: string): boolean | null => (config.has(key) ? config.boolean(key, false) : null);
  const named = {
    bos: token('bos_token'),
    eos: token('eos_token'),
    unk: token('unk_token'),
    pad: token('pad_token'),
  };

  let tokenizerJson: JsonObject;
  let origin: TokenizerSource['origin'] = 'tokenizer.json';
  let addBos = flag('add_bos_token') ?? false;
  if (existsSync(join(folder, 'tokenizer.json'))) {
    tokenizerJson = parseObject(
      readText(join(folder, 'tokenizer.json'), MAX_TOKENIZER_BYTES),
      'tokenizer.json',
    );
    checkTokenizerJson(tokenizerJson);
  } else if (existsSync(join(folder, 'tokenizer.model'))) {
    const file = ReadableFile.open(join(folder, 'tokenizer.model'));
    try {
      if (file.size > MAX_TOKENIZER_BYTES) throw tokenizerError(`tokenizer.model is ${file.size} bytes long`);
      const model = readSentencePiece(file.read(0, file.size));
      const at = (id: number) => model.pieces[id]?.text ?? null;
      named.bos ??= at(model.bosId);
      named.eos ??= at(model.eosId);
      named.unk ??= at(model.unkId);
      addBos = flag('add_bos_token') ?? true;
      const eos = flag('add_eos_token') ?? false;
      tokenizerJson = spmTokenizerJson(model, {
        bos: addBos ? named.bos : null,
        eos: eos ? named.eos : null,
      });
      addTokensOf(config, tokenizerJson);
      origin = 'sentencepiece';
    } finally {
      file.close();
    }
  } else {
    throw tokenizerError(
      `${folder} holds neither tokenizer.json nor tokenizer.model; download the model's tokenizer files too`,
    );
  }
  return {
    tokenizerJson,
    tokenizerConfigJson: configJson,
    origin,
    config: {
      bosToken: named.bos,
      eosToken: named.eos,
      unkToken: named.unk,
      padToken: named.pad,
      addBos,
      addEos: flag('add_eos_token') ?? false,
      cleanUpTokenizationSpaces: flag('clean_up_tokenization_spaces') ?? false,
    },
  };
}

function checkTokenizerJson(json: JsonObject): void {
  const model = json.model;
  if (!isObject(model)) throw tokenizerError('tokenizer.json has no model');
  if (model.type !== undefined && model.type !== 'BPE') {
    throw tokenizerError(
      `tokenizer.json: a model of type ${JSON.stringify(model.type)} is not supported, BPE is`,
    );
  }
  if (!isObject(model.vocab) || !Array.isArray(model.merges))
    throw tokenizerError('tokenizer.json: its BPE model has no vocab or merges');
  const ids = Object.values(model.vocab);
  if (!ids.every((id) => Number.isInteger(id) && (id as number) >= 0 && (id as number) < 1 << 24)) {
    throw tokenizerError('tokenizer.json: its vocabulary holds an id that is not a small integer');
  }
  const isMerge = (m: unknown) =>
    typeof m === 'string' || (Array.isArray(m) && m.length === 2 && m.every((x) => typeof x === 'string'));
  if (!model.merges.every(isMerge))
    throw tokenizerError('tokenizer.json: one of its merges is not a pair of tokens');
  const added = json.added_tokens ?? [];
  const isAdded = (t: unknown) =>
    isObject(t) &&
    typeof t.content === 'string' &&
    Number.isInteger(t.id) &&
    (t.id as number) >= 0 &&
    (t.id as number) < 1 << 24;
  if (!Array.isArray(added) || !added.every(isAdded))
    throw tokenizerError('tokenizer.json: one of its added_tokens has no content or no proper id');
}

/** Tokens that only tokenizer_config.json lists (a sentencepiece model extended by fine-tuning). */
function addTokensOf(config: Fields, tokenizerJson: JsonObject): void {
  const listed = config.child('added_tokens_decoder');
  if (listed === null) return;
  const added = tokenizerJson.added_tokens as { id: number; content: string }[];
  const known = new Set(added.map((t) => t.id));
  for (const [key, value] of Object.entries(listed.object)) {
    const id = Number(key);
    if (
      !Number.isInteger(id) ||
      id < 0 ||
      id >= 1 << 24 ||
      !isObject(value) ||
      typeof value.content !== 'string'
    ) {
      throw tokenizerError(
        `tokenizer_config.json: added_tokens_decoder ${JSON.stringify(key.slice(0, 40))} is not a token`,
      );
    }
    if (known.has(id)) continue;
    const flag = (name: string) => value[name] === true;
    added.push({
      id,
      content: value.content,
      ...{ single_word: flag('single_word'), lstrip: flag('lstrip'), rstrip: flag('rstrip') },
      ...{ normalized: flag('normalized'), special: flag('special') },
    });
  }
  added.sort((a, b) => a.id - b.id);
}

/** chat_template.jinja, or tokenizer_config.json's chat_template (a string, or named ones of which `default` is taken). */
export function readChatTemplate(folder: string, tokenizerConfig: JsonObject): string | null {
  const path = join(folder, 'chat_template.jinja');
  if (existsSync(path)) return readText(path, MAX_CONFIG_BYTES);
  const template = tokenizerConfig.chat_template ?? readOptional(folder, 'chat_template.json')?.chat_template;
  if (template === undefined || template === null) return null;
  if (typeof template === 'string') return template;
  if (Array.isArray(template)) {
    const named = template.filter(isObject);
    const chosen = named.find((t) => t.name === 'default') ?? named[0];
    if (typeof chosen?.template === 'string') return chosen.template;
  }
  throw new FiligreeError(
    'template_invalid',
    'tokenizer_config.json: chat_template is neither a text nor a list of named texts',
  );
}
