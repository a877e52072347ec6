package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Identity is what an endpoint tells of itself, unasked: which program, which
// model, which settings that bear on its numbers. What it does not tell is empty.
type Identity struct {
	Engine      string `json:"engine,omitempty"` // "vllm", "sglang", "llama.cpp", "tarbert"
	Version     string `json:"version,omitempty"`
	Gateway     string `json:"gateway,omitempty"` // what stands before it: "portkey", "litellm", "sglang-router"
	Model       string `json:"model,omitempty"`
	Root        string `json:"root,omitempty"` // where its weights are, in its own words
	MaxModelLen int    `json:"max_model_len,omitempty"`
	Vocab       int    `json:"vocab,omitempty"`
	// Flags are settings under the engine's own names.
	Flags map[string]string `json:"flags,omitempty"`
}

// Names of flags that several engines tell under different names.
const (
	FlagPrefixCaching = "enable_prefix_caching"
	FlagCacheDType    = "cache_dtype"
	FlagSpeculative   = "speculative"
)

// told are fields of SGLang's server info that bear on numbers, with the name
// that they get here.
var told = map[string]string{
	"dtype": "dtype", "quantization": "quantization", "kv_cache_dtype": FlagCacheDType, "tp_size": "tensor_parallel_size", "dp_size": "data_parallel_size",
	"attention_backend": "attention_backend", "chunked_prefill_size": "chunked_prefill_size", "disable_cuda_graph": "disable_cuda_graph",
	"speculative_algorithm": FlagSpeculative, "enable_deterministic_inference": "enable_deterministic_inference", "sampling_backend": "sampling_backend",
	"disable_radix_cache": "disable_radix_cache", "sampling_defaults": "sampling_defaults",
}

// labels of vLLM's cache_config_info that bear on numbers.
var cacheLabels = []string{FlagPrefixCaching, FlagCacheDType, "block_size", "sliding_window", "mamba_cache_dtype", "num_gpu_blocks_override"}

// Identify asks the endpoint's open pages once each, without patience: most
// engines have some of them and none has all. The error is that of
// /v1/models, without which nothing can be asked for.
func (c *Client) Identify(ctx context.Context) (Identity, error) {
	id := Identity{Model: c.Model, Flags: map[string]string{}}
	body, header, err := c.page(ctx, "/v1/models")
	if err != nil {
		return id, err
	}
	var list struct {
		Data []struct {
			ModelInfo
			OwnedBy string `json:"owned_by"`
			Meta    struct {
				Vocab   int    `json:"n_vocab"`
				Context int    `json:"n_ctx"`
				Type    string `json:"ftype"`
			} `json:"meta"`
		} `json:"data"`
	}
	if err := decode("models", body, &list); err != nil {
		return id, err
	}
	for _, m := range list.Data {
		if id.Model == "" {
			id.Model = m.ID
		}
		if m.ID != id.Model {
			continue
		}
		id.Root, id.MaxModelLen, id.Vocab = m.Root, max(m.MaxModelLen, m.Meta.Context), m.Meta.Vocab
		id.Engine, id.Gateway = ownerOf(m.OwnedBy)
		id.flag("ftype", m.Meta.Type)
	}
	id.gatewayFrom(header)
	quick := *c
	quick.Patience = time.Nanosecond // a page that is not there now is not asked for again
	if v, err := quick.Version(ctx); err == nil {
		id.Version = v
	}
	quick.fromServerInfo(ctx, &id)
	quick.fromProps(ctx, &id)
	quick.fromMetrics(ctx, &id)
	return id, ctx.Err()
}

func (id *Identity) flag(name, value string) {
	if value != "" {
		id.Flags[name] = value
	}
}

func ownerOf(ownedBy string) (engine, gateway string) {
	switch ownedBy {
	case "vllm", "sglang", "tarbert":
		return ownedBy, ""
	case "llamacpp":
		return "llama.cpp", ""
	case "local":
		return "", "sglang-router" // it writes its own list
	}
	return "", ""
}

func (id *Identity) gatewayFrom(h http.Header) {
	for name := range h {
		for prefix, gateway := range map[string]string{"x-portkey-": "portkey", "x-litellm-": "litellm", "x-kong-": "kong", "x-envoy-": "envoy"} {
			if strings.HasPrefix(strings.ToLower(name), prefix) && (id.Gateway == "" || gateway < id.Gateway) {
				id.Gateway = gateway
			}
		}
	}
}

// fromServerInfo reads SGLang's settings.
func (c *Client) fromServerInfo(ctx context.Context, id *Identity) {
	for _, path := range []string{"/get_server_info", "/server_info"} {
		body, _, err := c.page(ctx, path)
		var info map[string]any
		if err != nil || json.Unmarshal(body, &info) != nil || info["model_path"] == nil {
			continue
		}
		if id.Engine == "" {
			id.Engine = "sglang"
		}
		if v, ok := info["version"].(string); ok && id.Version == "" {
			id.Version = v
		}
		for name, ours := range told {
			if v := info[name]; v != nil {
				id.flag(ours, fmt.Sprint(v))
			}
		}
		if v, ok := info["disable_radix_cache"].(bool); ok {
			id.flag(FlagPrefixCaching, title(!v))
		}
		return
	}
}

// fromProps reads llama-server's settings.
func (c *Client) fromProps(ctx context.Context, id *Identity) {
	var p struct {
		Build    string `json:"build_info"`
		Path     string `json:"model_path"`
		Defaults struct {
			Context     int  `json:"n_ctx"`
			Speculative bool `json:"speculative"`
		} `json:"default_generation_settings"`
	}
	body, _, err := c.page(ctx, "/props")
	if err != nil || json.Unmarshal(body, &p) != nil || p.Path == "" {
		return
	}
	if id.Engine == "" {
		id.Engine = "llama.cpp"
	}
	if id.Version == "" {
		id.Version = p.Build
	}
	id.Root = p.Path
	if id.MaxModelLen == 0 {
		id.MaxModelLen = p.Defaults.Context
	}
	id.flag(FlagSpeculative, title(p.Defaults.Speculative))
}

// fromMetrics reads what vLLM says of its cache and of draft tokens.
func (c *Client) fromMetrics(ctx context.Context, id *Identity) {
	page, err := c.Metrics(ctx)
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(page, "\n") {
		if strings.HasPrefix(line, "vllm:cache_config_info{") {
			for name, value := range labelsOf(line) {
				if slices.Contains(cacheLabels, name) {
					id.flag(name, value)
				}
			}
		}
		if strings.Contains(line, "spec_decode_num_draft_tokens") && !strings.HasPrefix(line, "#") {
			id.flag(FlagSpeculative, "True")
		}
	}
}

// labelsOf reads the labels of one line of a Prometheus page; values with
// escaped quotes are left out.
func labelsOf(line string) map[string]string {
	_, rest, _ := strings.Cut(line, "{")
	out := map[string]string{}
	for rest != "" {
		name, after, ok := strings.Cut(rest, `="`)
		if !ok {
			break
		}
		value, next, ok := strings.Cut(after, `"`)
		if !ok {
			break
		}
		if !strings.HasSuffix(value, `\`) {
			out[strings.TrimLeft(name, ", ")] = value
		}
		rest = next
	}
	return out
}

func title(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// page is a GET with the answer's headers.
func (c *Client) page(ctx context.Context, path string) ([]byte, http.Header, error) {
	var header http.Header
	body, err := c.exchange(ctx, http.MethodGet, path, nil, func(r *http.Response) { header = r.Header })
	return body, header, err
}
