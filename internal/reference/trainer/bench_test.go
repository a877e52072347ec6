package trainer

import (
	"fmt"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/reference/tokenizer"
)

// BenchmarkRoll draws what one GRPO step of examples/sums needs: 8 completions
// of at most 48 tokens to each of 32 prompts.
func BenchmarkRoll(b *testing.B) {
	const dir = "../../../examples/sums/model"
	c, err := reference.ReadConfig(dir)
	if err != nil {
		b.Fatal(err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	var problems []problem
	for i := range 32 {
		problems = append(problems, problem{prompt: tok.Encode(fmt.Sprintf("%d+%d=", 10+29*i, 990-17*i))})
	}
	model := reference.NewTrainable(c, 1, 2)
	for _, p := range []reference.Precision{reference.F32, reference.BF16, reference.W8A8} {
		b.Run(string(p), func(b *testing.B) {
			s := sampling{seed: 1, samples: 8, maxTokens: 48, temperature: 1, eos: tok.EOS(), pool: kernel.NewPool(2)}
			tokens := 0
			for b.Loop() {
				m, err := model.Rounded(p)
				if err != nil {
					b.Fatal(err)
				}
				all, err := roll(b.Context(), m, s, 0, problems)
				if err != nil {
					b.Fatal(err)
				}
				for _, r := range all {
					tokens += len(r.logp)
				}
			}
			b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
