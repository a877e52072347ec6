package verifytest_test

import (
	"math"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/verify/verifytest"
)

// Another chip computes the same function: in float32 to its rounding, in
// bfloat16 about as far from float32 as the chip it replaces, and not like it.
func TestChipChangesRoundingsOnly(t *testing.T) {
	dir := t.TempDir()
	weights, config := verifytest.Chip(3)
	if err := verifytest.Copy(trained, dir, weights, config); err != nil {
		t.Fatal(err)
	}
	prompt := []int{'1', '2', '+', '3', '=', '<', 't', 'h', 'i', 'n', 'k', '>'}
	score := func(dir string, p reference.Precision) []reference.Position {
		got, err := load(t, dir, p).Model.Score(t.Context(), prompt, 4)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	apart := func(a, b []reference.Position) float64 {
		most := 0.0
		for i := 1; i < len(a); i++ {
			most = max(most, math.Abs(a[i].LogProb-b[i].LogProb))
		}
		return most
	}
	want := score(trained, reference.F32)
	if d := apart(want, score(dir, reference.F32)); d > 1e-3 {
		t.Errorf("in float32 it is %g nats off", d)
	}
	here, there := score(trained, reference.BF16), score(dir, reference.BF16)
	a, b, c := apart(want, here), apart(want, there), apart(here, there)
	t.Logf("bf16 is %.3g nats off here, %.3g there, %.3g apart", a, b, c)
	if b > 10*a || a > 10*b || c == 0 {
		t.Errorf("bf16 is %g nats off here and %g there, %g apart", a, b, c)
	}
}
