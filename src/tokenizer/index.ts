export { type ChatMessage, ChatTemplate, type RenderOptions } from './chat-template.js';
export { type Infill, infillOf } from './infill.js';
export { type TextPiece, TextStream, type TextStreamOptions } from './text-stream.js';
export { type DecodeOptions, type EncodeOptions, Tokenizer } from './tokenizer.js';
