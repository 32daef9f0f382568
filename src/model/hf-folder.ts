import { existsSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { groupTensors, readCompressionInfo } from './compressed-tensors.js';
import { Fields, type JsonObject, parseObject } from './fields.js';
import { readHfConfig } from './hf-config.js';
import { readChatTemplate, readHfTokenizer, readOptional } from './hf-tokenizer.js';
import type { ModelManifest } from './manifest.js';
import { invalid, ReadableFile, readText } from './model-file.js';
import { type RawTensor, readSafetensors } from './safetensors.js';
import { sourceKey } from './source-key.js';
import { addTokenizerEos } from './special-ids.js';
import { selectTensors, sourceClass } from './weights.js';

const MAX_CONFIG_BYTES = 16 << 20;
const MAX_INDEX_BYTES = 256 << 20;

/**
 * Opens a Hugging Face folder: config.json, safetensors (one file, or shards with an index), tokenizer, template.
 *
 * @throws FiligreeError saying which file is wrong, and how
 */
export function openHfFolder(folder: string): ModelManifest {
  const path = resolve(folder);
  const configJson = parseObject(readText(join(path, 'config.json'), MAX_CONFIG_BYTES), 'config.json');
  const generationJson = readOptional(path, 'generation_config.json');
  const { config, tied, generation, problems } = readHfConfig(configJson, generationJson);
  const compression = readCompressionInfo(configJson);
  const files: ReadableFile[] = [];
  try {
    const raw = readWeightFiles(path, files);
    const tensors = selectTensors(config, tied, groupTensors(raw, compression, files, problems), problems);
    const tokenizer = readHfTokenizer(path);
    addTokenizerEos(config, tokenizer, problems);
    const chatTemplate = readChatTemplate(path, tokenizer.tokenizerConfigJson);
    if (chatTemplate === null)
      problems.push('there is no chat template: chat requests will be refused, completions work');
    return {
      name: basename(path),
      path,
      config,
      files: files.map((file) => file.info),
      tensors,
      tokenizer,
      chatTemplate,
      generation,
      sourceKey: sourceKey(config, tensors, files),
      sourceClass: sourceClass(tensors),
      problems,
    };
  } finally {
    for (const file of files) file.close();
  }
}

function readWeightFiles(folder: string, files: ReadableFile[]): RawTensor[] {
  const open = (name: string): RawTensor[] => {
    const file = ReadableFile.open(join(folder, name));
    files.push(file);
    return readSafetensors(file, files.length - 1).tensors;
  };
  if (existsSync(join(folder, 'model.safetensors'))) return open('model.safetensors');
  const indexPath = join(folder, 'model.safetensors.index.json');
  if (existsSync(indexPath))
    return readShards(parseObject(readText(indexPath, MAX_INDEX_BYTES), basename(indexPath)), folder, open);
  const names = readdirSync(folder);
  const loose = names.filter((name) => name.endsWith('.safetensors'));
  if (loose.length === 1) return open(loose[0] as string);
  if (loose.length > 1) {
    throw invalid(
      `${folder} holds ${loose.length} safetensors files but no model.safetensors.index.json; the download is incomplete`,
    );
  }
  const pickles = names.some((name) => /^pytorch_model.*\.bin$/.test(name));
  throw invalid(
    pickles
      ? `${folder} holds its weights as pytorch_model.bin, which can run code when opened and is not read; convert it to safetensors`
      : `${folder} holds no safetensors file; the download is incomplete`,
  );
}

/** The tensors that the index names, each from the shard it says; a shard's name may not lead out of the folder. */
function readShards(index: JsonObject, folder: string, open: (name: string) => RawTensor[]): RawTensor[] {
  const where = 'model.safetensors.index.json';
  const map = new Fields(index, where).child('weight_map');
  if (map === null) throw invalid(`${where} has no weight_map`);
  const home = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(map.object)) {
    if (typeof shard !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(shard) || shard.startsWith('..')) {
      throw invalid(
        `${where}: tensor ${tensor.slice(0, 200)} is said to lie in ${JSON.stringify(shard)?.slice(0, 200)}, which is no file name of this folder`,
      );
    }
    home.set(tensor, shard);
  }
  const tensors: RawTensor[] = [];
  for (const shard of new Set(home.values())) {
    if (!existsSync(join(folder, shard)))
      throw invalid(`${where} names ${shard}, which is not there; the download is incomplete`);
    for (const tensor of open(shard)) {
      const expected = home.get(tensor.name);
      if (expected === undefined) continue;
      if (expected !== shard)
        throw invalid(`tensor ${tensor.name} lies in ${shard}; ${where} says ${expected}`);
      home.delete(tensor.name);
      tensors.push(tensor);
    }
  }
  for (const [tensor, shard] of home)
    throw invalid(`${shard} does not hold the tensor ${tensor} that ${where} promises`);
  return tensors;
}
