package kernel

import (
	"slices"
	"testing"
	"time"
)

func TestPickPrefersTheClearlyFaster(t *testing.T) {
	for _, c := range []struct {
		name  string
		times []time.Duration
		want  int
	}{
		{"one alone", []time.Duration{0}, 0},
		{"as promised", []time.Duration{50, 50, 90}, 0},
		{"narrower vectors are faster", []time.Duration{100, 99, 60}, 2},
		{"within the noise", []time.Duration{100, 98, 96}, 0},
		{"each faster than the one before", []time.Duration{100, 90, 80}, 2},
	} {
		if got := pick(c.times); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestFastestIsMeasured(t *testing.T) {
	list := candidates(available())
	times := timeProducts(list)
	t.Logf("%v", times)
	for i, o := range list {
		if len(list) > 1 && times[i] <= 0 {
			t.Errorf("%s was not timed", o.name)
		}
		if len(list) > 1 && o.tiles == "go" || i > 0 && o.tiles == list[i-1].tiles {
			t.Errorf("%s is no candidate of its own", o.name)
		}
	}
	if !slices.ContainsFunc(list, func(o *ops) bool { return o.tiles == Products() }) {
		t.Errorf("%s is no candidate", Products())
	}
	first := fastest()
	if again := fastest(); again != first {
		t.Error("measured twice")
	}
}
