package convert

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// AscendV1's description of a quantised model, and the two of its types that
// W8A8_DYNAMIC models have.
const (
	descriptionName = "quant_model_description.json"
	typeDynamic     = "W8A8_DYNAMIC"
	typeFloat       = "FLOAT"
)

// description lists the type of every tensor, in order.
type description []described

type described struct{ tensor, kind string }

func describe(steps []step) description {
	n := 0
	for i := range steps {
		n += len(steps[i].slots)
	}
	d := make(description, 0, n)
	for i := range steps {
		kind := typeFloat
		if steps[i].action == Quantised {
			kind = typeDynamic
		}
		for _, o := range steps[i].slots {
			d = append(d, described{o.name, kind})
		}
	}
	return d
}

// modelType is the highest type that occurs, as msmodelslim ranks them.
func (d description) modelType() string {
	if slices.ContainsFunc(d, func(e described) bool { return e.kind == typeDynamic }) {
		return typeDynamic
	}
	return typeFloat
}

// encode writes the file as msmodelslim 26.1.0 lays it out: every tensor, then
// what concerns the whole.
func (d description) encode(w io.Writer) error {
	b := bufio.NewWriter(w)
	b.WriteString("{\n")
	for _, e := range d {
		name, err := json.Marshal(e.tensor)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "    %s: %q,\n", name, e.kind)
	}
	fmt.Fprintf(b, "    \"version\": \"1.0.0\",\n    \"model_quant_type\": %q,\n"+
		"    \"metadata\": {},\n    \"group_size\": 0,\n    \"optional\": {}\n}", d.modelType())
	return b.Flush() // with the first error of any write
}

// parseDescription reads anybody's: the types by tensor, and model_quant_type.
// Keys that concern the whole model are told from tensors by their names, which
// AscendV1 fixes.
func parseDescription(b []byte) (kinds map[string]string, model string, err error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, "", err
	}
	kinds = map[string]string{}
	for _, m := range o {
		switch m.key {
		case "version", "metadata", "group_size", "optional", "kv_cache_type", "kv_quant_type", "fa_quant_type", "reduce_quant_type":
			continue
		}
		var kind string
		if err := json.Unmarshal(m.value, &kind); err != nil {
			return nil, "", fmt.Errorf("%q: %w", m.key, err)
		}
		if m.key == "model_quant_type" {
			model = kind
			continue
		}
		kinds[m.key] = kind
	}
	return kinds, model, nil
}
