package convert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object whose members keep their order and spelling.
type object []member

type member struct {
	key   string
	value json.RawMessage
}

func parseObject(b []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("not a JSON object"), err)
	}
	var o object
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("%v where a key should be", t)
		}
		if o.get(key) != nil {
			return nil, fmt.Errorf("%q occurs twice", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%q: %w", key, err)
		}
		o = append(o, member{key, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more after the end of the JSON object")
	}
	return o, nil
}

func (o object) get(key string) json.RawMessage {
	for _, m := range o {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// set replaces a member or adds it at the end, and reports whether that changed anything.
func (o *object) set(key, value string) bool {
	for i, m := range *o {
		if m.key == key {
			if string(m.value) == value {
				return false
			}
			(*o)[i].value = json.RawMessage(value)
			return true
		}
	}
	*o = append(*o, member{key, json.RawMessage(value)})
	return true
}

func (o *object) remove(key string) bool {
	n := len(*o)
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.key == key })
	return len(*o) != n
}

// encode writes the object with two spaces of indentation, as transformers does.
func (o object) encode() ([]byte, error) {
	var flat bytes.Buffer
	flat.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			flat.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		flat.Write(key)
		flat.WriteByte(':')
		flat.Write(m.value)
	}
	flat.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, flat.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// modelConfig is what a conversion needs of config.json.
type modelConfig struct {
	ModelType string
	Layers    int
	Tied      bool
	Quant     sourceQuant
}

// sourceQuant says how the source's weights are quantised.
type sourceQuant struct {
	Method   string   // empty: they are not
	Fmt      string   // "e4m3"
	ScaleFmt string   // "ue8m0": scales are powers of two
	Block    [2]int64 // rows and columns under one scale; zero where not given
	Experts  string   // "fp4"; from wherever expert_dtype stands
}

// readable refuses weights that are quantised in a way that is not read.
func (q sourceQuant) readable() error {
	if q.Method == "" || q.Method == "fp8" {
		return nil
	}
	return violation("source", "config.json", "quantization_config says %q: of quantised weights, only FP8 in blocks and FP4 experts are read (quant_method fp8); give the model that they were made from", q.Method)
}

func parseConfig(b []byte) (modelConfig, error) {
	type quant struct {
		Method   string  `json:"quant_method"`
		Fmt      string  `json:"fmt"`
		ScaleFmt string  `json:"scale_fmt"`
		Block    []int64 `json:"weight_block_size"`
		Experts  string  `json:"expert_dtype"`
	}
	type inner struct {
		Layers  int    `json:"num_hidden_layers"`
		Experts string `json:"expert_dtype"`
		Quant   *quant `json:"quantization_config"`
	}
	var c struct {
		inner
		ModelType string `json:"model_type"`
		Tied      bool   `json:"tie_word_embeddings"`
		Text      inner  `json:"text_config"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return modelConfig{}, fmt.Errorf("config.json: %w", err)
	}
	if c.ModelType == "" {
		return modelConfig{}, errors.New("config.json: no model_type")
	}
	q := cmp.Or(c.Quant, c.Text.Quant)
	m := modelConfig{ModelType: c.ModelType, Layers: cmp.Or(c.Layers, c.Text.Layers), Tied: c.Tied}
	if q == nil {
		m.Quant.Experts = cmp.Or(c.Experts, c.Text.Experts)
		return m, nil
	}
	m.Quant = sourceQuant{Method: cmp.Or(q.Method, "unnamed"), Fmt: q.Fmt, ScaleFmt: q.ScaleFmt, Experts: cmp.Or(q.Experts, c.Experts, c.Text.Experts)}
	if len(q.Block) == 2 {
		m.Quant.Block = [2]int64(q.Block)
	}
	return m, nil
}

// raw is a value of an object, written as JSON.
func raw(s string) json.RawMessage { return json.RawMessage(s) }

// list is an array of strings.
func list(items []string) json.RawMessage {
	b, err := json.Marshal(append([]string{}, items...))
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}

func present(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }

// isMTP reports whether a module belongs to a layer after the last one of the
// model: DeepSeek's multi-token-prediction layers.
func (m modelConfig) isMTP(module string) bool {
	_, ok := m.mtpLayer(module)
	return ok
}

// mtpLayer is the number, as it is written, of the multi-token-prediction layer
// that a module belongs to.
func (m modelConfig) mtpLayer(module string) (string, bool) {
	rest, ok := strings.CutPrefix(module, "model.layers.")
	if !ok || m.Layers == 0 {
		return "", false
	}
	number, _, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	return number, err == nil && layer >= m.Layers
}

// edit is what a format makes of config.json.
type edit struct {
	// quant replaces quantization_config; nil removes it, keep leaves it.
	quant object
	keep  bool
	// experts replaces expert_dtype wherever it stands; empty removes it.
	experts string
}

// apply makes the configuration that of a bfloat16 model, in whichever spelling
// it has, with the format's quantization_config, and changes nothing else: a
// configuration that says so already is returned as it is.
func (e edit) apply(b []byte) ([]byte, error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	changed, err := e.members(&o)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if text := o.get("text_config"); present(text) {
		inner, err := parseObject(text)
		if err != nil {
			return nil, fmt.Errorf("config.json: text_config: %w", err)
		}
		touched, err := edit{keep: e.keep, experts: e.experts}.members(&inner)
		if err != nil {
			return nil, fmt.Errorf("config.json: text_config: %w", err)
		}
		if touched {
			value, err := inner.encode()
			if err != nil {
				return nil, fmt.Errorf("config.json: text_config: %w", err)
			}
			changed = o.set("text_config", string(bytes.TrimSpace(value))) || changed
		}
	}
	if o.get("torch_dtype") == nil && o.get("dtype") == nil {
		changed = o.set("torch_dtype", `"bfloat16"`) || changed
	}
	if !changed {
		return b, nil
	}
	return o.encode()
}

// members edits one level of the configuration.
func (e edit) members(o *object) (changed bool, err error) {
	switch old := o.get("quantization_config"); {
	case e.quant != nil:
		value, err := e.quant.encode()
		if err != nil {
			return false, err
		}
		if string(old) != string(bytes.TrimSpace(value)) { // at the end, wherever another was
			o.remove("quantization_config")
			changed = o.set("quantization_config", string(bytes.TrimSpace(value)))
		}
	case !e.keep:
		changed = o.remove("quantization_config")
	case present(old):
		inner, err := parseObject(old)
		if err != nil {
			return false, fmt.Errorf("quantization_config: %w", err)
		}
		if inner.get("expert_dtype") != nil && inner.set("expert_dtype", strconv.Quote(e.experts)) {
			value, err := inner.encode()
			if err != nil {
				return false, err
			}
			changed = o.set("quantization_config", string(bytes.TrimSpace(value)))
		}
	}
	if o.get("expert_dtype") != nil {
		if e.experts == "" {
			changed = o.remove("expert_dtype") || changed
		} else {
			changed = o.set("expert_dtype", strconv.Quote(e.experts)) || changed
		}
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		changed = o.get(key) != nil && o.set(key, `"bfloat16"`) || changed
	}
	return changed, nil
}
