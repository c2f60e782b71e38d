"""The small model as a GGUF file: random weights, and a vocabulary of single bytes."""

from pathlib import Path

import gguf
from support.small_llama import CONFIG, weights

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(file: Path, layers: int, *, seed: int) -> None:
    """Write the model with these weights; that its rotary embedding is another one than Hugging Face's is no matter."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_dimension_count(CONFIG["hidden_size"] // CONFIG["num_attention_heads"])
    writer.add_vocab_size(CONFIG["vocab_size"])
    _add_vocabulary(writer)
    for name, value in weights(layers, seed=seed).items():
        *path, kind = name.removeprefix("model.").split(".")
        own = path[2:] if path[0] == "layers" else path
        prefix = f"blk.{path[1]}." if path[0] == "layers" else ""
        writer.add_tensor(f"{prefix}{_NAMES['.'.join(own)]}.{kind}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    special = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens = [*special, *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256))]
    tokens += [(f"word{number}", kinds.NORMAL) for number in range(CONFIG["vocab_size"] - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
