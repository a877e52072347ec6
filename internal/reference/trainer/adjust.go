package trainer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// adjustment is what a supervisor asks of a run that went wrong: the file that
// TARBERT_ADJUST names. It is no part of the recipe, and of no checkpoint's
// identity: the run stays the same run.
type adjustment struct {
	Skip [][2]int `json:"skip"` // first and last step whose update is left out
	Rate []struct {
		From  int     `json:"from"`
		To    int     `json:"to"`
		Scale float64 `json:"scale"`
	} `json:"lr"`
}

// readAdjustment reads the file, if one is named.
func readAdjustment(path string) (adjustment, error) {
	if path == "" {
		return adjustment{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return adjustment{}, fmt.Errorf("read the adjustments: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLine))
	if err != nil {
		return adjustment{}, fmt.Errorf("read the adjustments: %w", err)
	}
	var a adjustment
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // a wish that nobody fulfils
	if err := d.Decode(&a); err != nil {
		return adjustment{}, fmt.Errorf("adjustments %s: %w", path, err)
	}
	for _, r := range a.Rate {
		if !(r.Scale > 0 && r.Scale <= 1) {
			return adjustment{}, fmt.Errorf("adjustments %s: a learning rate scaled by %g; want more than 0 and at most 1", path, r.Scale)
		}
	}
	return a, nil
}

// skips says whether a step's update is left out. Its data count as taken.
func (a adjustment) skips(step int) bool {
	for _, s := range a.Skip {
		if step >= s[0] && step <= s[1] {
			return true
		}
	}
	return false
}

// scale is what a step's learning rate is multiplied with.
func (a adjustment) scale(step int) float64 {
	x := 1.0
	for _, r := range a.Rate {
		if step >= r.From && step <= r.To {
			x *= r.Scale
		}
	}
	return x
}
