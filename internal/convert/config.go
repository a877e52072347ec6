package convert

import (
	"bytes"
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
	ModelType string          `json:"model_type"`
	Layers    int             `json:"num_hidden_layers"`
	Tied      bool            `json:"tie_word_embeddings"`
	Quant     json.RawMessage `json:"quantization_config"`
	Text      struct {
		Quant json.RawMessage `json:"quantization_config"`
	} `json:"text_config"`
}

func parseConfig(b []byte) (modelConfig, error) {
	var m modelConfig
	if err := json.Unmarshal(b, &m); err != nil {
		return modelConfig{}, fmt.Errorf("config.json: %w", err)
	}
	if m.ModelType == "" {
		return modelConfig{}, errors.New("config.json: no model_type")
	}
	return m, nil
}

// quantised reports whether the configuration says that the weights are.
func (m modelConfig) quantised() bool { return present(m.Quant) || present(m.Text.Quant) }

func present(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }

// isMTP reports whether a module belongs to a layer after the last one of the
// model: DeepSeek's multi-token-prediction layers.
func (m modelConfig) isMTP(module string) bool {
	rest, ok := strings.CutPrefix(module, "model.layers.")
	if !ok || m.Layers == 0 {
		return false
	}
	number, _, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	return err == nil && layer >= m.Layers
}

// editConfig makes the configuration that of a bfloat16 model without a
// quantization_config, in whichever spelling it has, and changes nothing else:
// a configuration that says so already is returned as it is.
func editConfig(b []byte) ([]byte, error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	changed := o.remove("quantization_config")
	if text := o.get("text_config"); present(text) {
		inner, err := parseObject(text)
		if err != nil {
			return nil, fmt.Errorf("config.json: text_config: %w", err)
		}
		touched := inner.remove("quantization_config")
		for _, key := range []string{"dtype", "torch_dtype"} {
			touched = inner.get(key) != nil && inner.set(key, `"bfloat16"`) || touched
		}
		if touched {
			value, err := inner.encode()
			if err != nil {
				return nil, fmt.Errorf("config.json: text_config: %w", err)
			}
			changed = o.set("text_config", string(bytes.TrimSpace(value))) || changed
		}
	}
	if o.get("dtype") != nil {
		changed = o.set("dtype", `"bfloat16"`) || changed
	}
	if o.get("torch_dtype") != nil || o.get("dtype") == nil {
		changed = o.set("torch_dtype", `"bfloat16"`) || changed
	}
	if !changed {
		return b, nil
	}
	return o.encode()
}
