package verifytest_test

import (
	"os"
	"testing"

	"tarbert/internal/verify/verifytest"
)

// TestSoakGrow trains the specimens that are not there yet.
func TestSoakGrow(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to train the specimens")
	}
	c, err := verifytest.ReadCorpus()
	if err != nil {
		t.Fatal(err)
	}
	lab, err := verifytest.LabDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specimens() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			g, err := verifytest.Grow(t.Context(), lab, s, c, 2)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(g.Dir)
		})
	}
}
