package gate

import (
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	check := func(name string, v Verdict) Check { return Check{Name: name, Verdict: v, Detail: "because of " + name} }
	tests := []struct {
		name   string
		checks []Check
		want   Verdict
		says   string
		not    string
	}{
		{"nothing asked", nil, Inconclusive, "nothing was checked", ""},
		{"all pass", []Check{check("a", Pass), check("b", Pass)}, Pass, "b: because of b", ""},
		{"one fails", []Check{check("a", Pass), check("b", Fail), check("c", Inconclusive)}, Fail, "b: because of b", "because of a"},
		{"one cannot tell", []Check{check("a", Pass), check("b", Inconclusive)}, Inconclusive, "b: because of b", "because of a"},
		{"a verdict that was never set does not pass", []Check{check("a", Pass), check("b", "")}, Inconclusive, "b: because of b", ""},
		{"nor one that does not exist", []Check{check("a", "passed")}, Inconclusive, "a: because of a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Of(tt.checks...)
			if got.Verdict != tt.want || got.Passed() != (tt.want == Pass) {
				t.Errorf("verdict %s, want %s", got.Verdict, tt.want)
			}
			if !strings.Contains(got.Reason, tt.says) || tt.not != "" && strings.Contains(got.Reason, tt.not) {
				t.Errorf("reason %q, want it to say %q and not %q", got.Reason, tt.says, tt.not)
			}
		})
	}
}
