package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/mmcloughlin/avo/attr"
)

// isa is an instruction set with vectors of so many float32 lanes.
type isa struct {
	name  string // ending of the functions' names
	lanes int
}

var (
	avx2   = isa{"AVX2", 8}
	avx512 = isa{"AVX512", 16}
)

func (s isa) wide() bool { return s.lanes == 16 }
func (s isa) bytes() int { return 4 * s.lanes }

// vec allocates a vector register.
func (s isa) vec(c *build.Context) reg.VecVirtual {
	if s.wide() {
		return c.ZMM()
	}
	return c.YMM()
}

// zero clears v.
func (s isa) zero(c *build.Context, v reg.VecVirtual) {
	if s.wide() {
		c.VPXORD(v, v, v)
	} else {
		c.VXORPS(v, v, v)
	}
}

// function starts a leaf function that keeps none of its pointers.
func function(c *build.Context, name, signature, doc string) {
	c.Function(name)
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr(signature)
	c.Pragma("noescape")
	c.Doc(doc)
}

// load brings an argument into a register.
func load(c *build.Context, p gotypes.Component) reg.GPVirtual {
	r := c.GP64()
	c.Load(p, r)
	return r
}

// loadBytes brings a distance in float32 elements into a register, in bytes.
func loadBytes(c *build.Context, p gotypes.Component) reg.GPVirtual {
	r := load(c, p)
	c.SHLQ(operand.Imm(2), r)
	return r
}

// address is where an argument lies on the stack.
func address(p gotypes.Component) operand.Mem {
	b, err := p.Resolve()
	if err != nil {
		panic(err) // a misspelt parameter of a generator
	}
	return b.Addr
}

// align puts the next instruction, a loop's first, on its own fetch line.
func align(c *build.Context) {
	c.Instruction(&ir.Instruction{Opcode: "PCALIGN", Operands: []operand.Op{operand.Imm(64)}})
}

// data adds a read-only vector of sixteen equal 32-bit words.
func data(c *build.Context, name string, word uint32) operand.Mem {
	m := c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		c.AddDatum(4*i, operand.U32(word))
	}
	return m
}

// maskTable adds sixteen words of ones and sixteen of zeros: read from word
// 16-n on, it masks the first n lanes.
func maskTable(c *build.Context, name string) operand.Mem {
	m := c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 32 {
		var word uint32
		if i < 16 {
			word = ^uint32(0)
		}
		c.AddDatum(4*i, operand.U32(word))
	}
	return m
}

func label(format string, args ...any) string { return fmt.Sprintf(format, args...) }
