package plan

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// Units cannot be mixed: the compiler refuses it, so this asks the type checker.
func TestUnitsCannotBeMixed(t *testing.T) {
	mixes := []string{
		"var _ Hours = Seconds(1)", "var _ Seconds = FLOPs(1)", "var _ Bytes = FLOPs(1)", "var _ Rate = Bandwidth(1)", "var _ = Hours(1) + Seconds(1)",
		"var _ = Bytes(1) / Rate(1)", "var _ Money = DeviceHours(1)", "var _ = Money(1) < Hours(1)", "var _ Seconds = FLOPs(1).Over(Bandwidth(1))",
		"var _ Seconds = Bytes(1).Over(Rate(1))", "var _ Hazard = Rate(1)",
	}
	// What may be done, so that the refusals are not for another reason.
	allowed := []string{"var _ Seconds = FLOPs(1).Over(Rate(1))", "var _ Seconds = Bytes(1).Over(Bandwidth(1))", "var _ Hours = Seconds(1).Hours()", "var _ = Hours(1) + Hours(2)"}
	fset := token.NewFileSet()
	files := []*ast.File{}
	for _, name := range []string{"units.go", "quantity.go"} {
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	snippet, err := parser.ParseFile(fset, "snippet.go", "package plan\n"+strings.Join(append(mixes, allowed...), "\n"), 0)
	if err != nil {
		t.Fatal(err)
	}
	refused := map[int]bool{}
	// Imports are not there, and are not what is asked: only the snippet's lines count.
	check := types.Config{Error: func(err error) {
		if e, ok := err.(types.Error); ok {
			if at := e.Fset.Position(e.Pos); at.Filename == "snippet.go" {
				refused[at.Line-2] = true
			}
		}
	}}
	_, _ = check.Check("plan", fset, append(files, snippet), nil)
	for i, line := range append(mixes, allowed...) {
		if want := i < len(mixes); refused[i] != want {
			t.Errorf("%s: refused %v, want %v", line, refused[i], want)
		}
	}
}
