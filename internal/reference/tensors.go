package reference

import "fmt"

// TensorSpec is a tensor that a config implies.
type TensorSpec struct {
	Name  string
	Shape []int64
	// Linear: the weight of a matrix product with activations, which a
	// quantised format may store narrow. Not so embeddings, norms, biases,
	// the router and e_score_correction_bias.
	Linear bool
	// Decay: a matrix, to which weight decay applies.
	Decay bool
	// Frozen: not trained by gradients (e_score_correction_bias).
	Frozen bool
}

// Tensors lists every tensor of the model in the order of computation, by its
// Hugging Face name. Multi-token-prediction layers are not in it.
func (c *Config) Tensors() []TensorSpec {
	l := &lister{}
	c.build(l)
	return l.specs
}

// PredictionLayer says whether a name belongs to a multi-token-prediction
// layer, which files may have after the last layer and no forward pass uses.
func (c *Config) PredictionLayer(name string) bool {
	for i := range c.NumNextNPredictLayers {
		prefix := fmt.Sprintf("model.layers.%d.", c.NumHiddenLayers+i)
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// supplier gives the tensors of a model one by one: from files, from trained
// parameters, or only their names.
type supplier interface {
	vector(name string, n int) vec
	// frozen is a vector without a gradient.
	frozen(name string, n int) []float32
	table(name string, rows, cols int) vec
	// router is a linear that stays in float32.
	router(name string, out, in int) *linear
	linear(name string, out, in int, bias bool) *linear
	// tied makes the output head of an embedding table.
	tied(table vec, out, in int) *linear
}

// lister is the supplier that only writes down what it is asked for.
type lister struct{ specs []TensorSpec }

func (l *lister) vector(name string, n int) vec {
	l.specs = append(l.specs, TensorSpec{Name: name, Shape: []int64{int64(n)}})
	return vec{}
}

func (l *lister) frozen(name string, n int) []float32 {
	l.specs = append(l.specs, TensorSpec{Name: name, Shape: []int64{int64(n)}, Frozen: true})
	return nil
}

func (l *lister) table(name string, rows, cols int) vec {
	l.specs = append(l.specs, TensorSpec{Name: name, Shape: []int64{int64(rows), int64(cols)}, Decay: true})
	return vec{}
}

func (l *lister) router(name string, out, in int) *linear {
	l.table(name+".weight", out, in)
	return nil
}

func (l *lister) linear(name string, out, in int, bias bool) *linear {
	l.specs = append(l.specs, TensorSpec{Name: name + ".weight", Shape: []int64{int64(out), int64(in)}, Linear: true, Decay: true})
	if bias {
		l.vector(name+".bias", out)
	}
	return nil
}

func (l *lister) tied(vec, int, int) *linear { return nil }
