package convert

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
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

// describe lists the outputs with their types.
func describe(steps []step, order []string) description {
	outputs := inOrderOf(steps, order)
	d := make(description, 0, len(outputs))
	for _, o := range outputs {
		kind := typeFloat
		if o.of.action == Quantised {
			kind = typeDynamic
		}
		d = append(d, described{o.name, kind})
	}
	return d
}

type outputOf struct {
	*output
	of   *step
	rank [4]int
}

// inOrderOf lists the outputs as msmodelslim does: layer by layer in the
// architecture's order, each weight before what stands beside it, and last what
// belongs to no layer.
func inOrderOf(steps []step, order []string) []outputOf {
	var all []outputOf
	for i := range steps {
		s := &steps[i]
		r := rank(s.weight.name, order)
		for j := range s.slots {
			if j > 0 { // the slots are in the order of the file: offset before scale
				j = len(s.slots) - j
			}
			all = append(all, outputOf{s.slots[j].output, s, r})
		}
	}
	slices.SortStableFunc(all, func(a, b outputOf) int { return slices.Compare(a.rank[:], b.rank[:]) })
	return all
}

// rank is where a weight stands: its layer, its module among the layer's, its
// expert, and the expert's module. Without an order all are equal, but for layers
// before the rest.
func rank(name string, order []string) (r [4]int) {
	rest, ok := strings.CutPrefix(name, "model.layers.")
	if !ok {
		last := []string{"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
		return [4]int{math.MaxInt, slices.Index(last, name)}
	}
	if len(order) == 0 {
		return r
	}
	layer, rest, _ := strings.Cut(rest, ".")
	r[0], _ = strconv.Atoi(layer)
	module := func(name string) int {
		return slices.IndexFunc(order, func(m string) bool { return strings.HasPrefix(name+".", m+".") })
	}
	if inner, ok := strings.CutPrefix(rest, "mlp.experts."); ok {
		expert, child, _ := strings.Cut(inner, ".")
		r[2], _ = strconv.Atoi(expert)
		r[1], r[3] = module("mlp.experts"), module(child)
		return r
	}
	if r[1] = module(rest); r[1] < 0 {
		r[1] = module(strings.TrimPrefix(rest, "mlp."))
	}
	return r
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
