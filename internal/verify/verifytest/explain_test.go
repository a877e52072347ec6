package verifytest_test

import (
	"slices"
	"strings"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/verify"
	"tarbert/internal/verify/verifytest"
)

// Explain names the tensor or the config field that was tampered with, also
// through a conversion to W8A8, whose rounding is everywhere.
func TestExplainNamesThePlantedCause(t *testing.T) {
	b := newBench(t, 12)
	for _, c := range []struct {
		fault, format string
		names         []string // each must be among the named
		most          int
	}{
		{"an expert's down_proj is zero", "w8a8-ascend", []string{"model.layers.1.mlp.experts.0.down_proj.weight"}, 1},
		{"o_proj's shards in the wrong order", "bf16", []string{"model.layers.1.self_attn.o_proj.weight"}, 1},
		{"rope_theta 50,000", "w8a8-ascend", []string{"config.json rope_theta (50000, was 10000.0)"}, 1},
		{"two experts swapped", "", []string{"model.layers.1.mlp.experts.0.", "model.layers.1.mlp.experts.1."}, 6},
	} {
		t.Run(c.fault, func(t *testing.T) {
			faults := verifytest.Catalogue(b.config)
			f := faults[slices.IndexFunc(faults, func(f verifytest.Fault) bool { return f.Name == c.fault })]
			dir := t.TempDir()
			if err := verifytest.Copy(trained, dir, f.Weights, f.Config); err != nil {
				t.Fatal(err)
			}
			if c.format != "" {
				to := t.TempDir() + "/converted"
				if _, err := convert.Convert(t.Context(), dir, to, c.format, convert.Options{}); err != nil {
					t.Fatal(err)
				}
				dir = to
			}
			got, err := verify.Explain(t.Context(), verify.ExplainInput{
				Reference: trained, Candidate: dir, Prompts: b.prompts, From: b.from, WorkDir: t.TempDir(), Threads: 2,
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range got.Steps {
				t.Logf("restore %-50s %.2g nats left, %.1f %% closed", s.What, s.KL, 100*s.Closed)
			}
			t.Log(got.Text)
			for _, want := range c.names {
				if !slices.ContainsFunc(got.Named, func(n string) bool { return strings.HasPrefix(n, want) }) || len(got.Named) > c.most {
					t.Errorf("named %q, want %q", got.Named, want)
				}
			}
		})
	}
	same, err := verify.Explain(t.Context(), verify.ExplainInput{Reference: trained, Candidate: trained, Prompts: b.prompts, WorkDir: t.TempDir()})
	if err != nil || len(same.Named) > 0 || same.Gap != 0 || !strings.Contains(same.Text, "the files agree") {
		t.Errorf("equal files: %+v, %v", same, err)
	}
}
