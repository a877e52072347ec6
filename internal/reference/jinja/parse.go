package jinja

import (
	"fmt"
	"slices"
)

// deepest bounds nesting in a template and of calls while it renders.
const deepest = 200

// parser builds the tree. Its grammar is that of Jinja2's parser.
type parser struct {
	tokens []token
	at     int
	depth  int
	macro  *macro // whose body is being parsed
}

func parse(src string) ([]stmt, error) {
	tokens, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	body, err := p.body()
	if err != nil {
		return nil, err
	}
	if p.now().kind != end {
		return nil, p.fail("unexpected tag %s", p.tokens[p.at+1])
	}
	return body, nil
}

func (p *parser) now() token  { return p.tokens[p.at] }
func (p *parser) next() token { t := p.tokens[p.at]; p.at = min(p.at+1, len(p.tokens)-1); return t }

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", p.now().line, fmt.Sprintf(format, args...))
}

// is says whether the next token is that operator or word.
func (p *parser) is(words ...string) bool {
	t := p.now()
	return (t.kind == operator || t.kind == name) && slices.Contains(words, t.text)
}

// skip steps over one of these operators or words.
func (p *parser) skip(words ...string) bool {
	if !p.is(words...) {
		return false
	}
	p.next()
	return true
}

func (p *parser) want(word string) error {
	if !p.skip(word) {
		return p.fail("want %q, not %s", word, p.now())
	}
	return nil
}

func (p *parser) name() (string, error) {
	if p.now().kind != name {
		return "", p.fail("want a name, not %s", p.now())
	}
	return p.next().text, nil
}

func (p *parser) endTag() error {
	if p.now().kind != blockEnd {
		return p.fail("want the end of the tag, not %s", p.now())
	}
	p.next()
	return nil
}

func (p *parser) enter() error {
	if p.depth++; p.depth > deepest {
		return p.fail("nested more than %d deep", deepest)
	}
	return nil
}

// body parses up to a tag that is named in ends, which it leaves to be read
// from its name on; without ends up to the template's end.
func (p *parser) body(ends ...string) ([]stmt, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var out []stmt
	for {
		switch t := p.now(); t.kind {
		case data:
			out = append(out, &textNode{t.text})
			p.next()
		case varBegin:
			p.next()
			e, err := p.tuple()
			if err != nil {
				return nil, err
			}
			if p.next().kind != varEnd {
				return nil, p.fail("want }}")
			}
			out = append(out, &printNode{e})
		case blockBegin:
			word := p.tokens[p.at+1]
			if word.kind == name && slices.Contains(ends, word.text) {
				p.next()
				return out, nil
			}
			parse := tag(word.text)
			if parse == nil || word.kind != name {
				if len(ends) > 0 {
					return nil, p.fail("unexpected tag %s: want %s", word, ends[len(ends)-1])
				}
				return nil, p.fail("there is no tag %s", word)
			}
			p.next()
			p.next()
			s, err := parse(p)
			if err != nil {
				return nil, err
			}
			out = append(out, &located{s, word.line})
		default:
			if len(ends) > 0 {
				return nil, p.fail("%s is missing", ends[len(ends)-1])
			}
			return out, nil
		}
	}
}

// block parses a body and its end tag.
func (p *parser) block(ended string) ([]stmt, error) {
	b, err := p.body(ended)
	if err != nil {
		return nil, err
	}
	p.next()
	return b, p.endTag()
}

// tag gives the parser of a statement, from behind its name on; nil for none.
func tag(name string) func(*parser) (stmt, error) {
	return map[string]func(*parser) (stmt, error){
		"if": (*parser).ifTag, "for": (*parser).forTag, "set": (*parser).setTag, "macro": (*parser).macroTag, "call": (*parser).callTag,
		"filter": (*parser).filterTag, "with": (*parser).withTag, "generation": (*parser).generationTag,
		"break":    func(p *parser) (stmt, error) { return &jumpNode{broken}, p.endTag() },
		"continue": func(p *parser) (stmt, error) { return &jumpNode{continued}, p.endTag() },
	}[name]
}

func (p *parser) ifTag() (stmt, error) {
	n := &ifNode{}
	for {
		test, err := p.tuple()
		if err != nil {
			return nil, err
		}
		if err := p.endTag(); err != nil {
			return nil, err
		}
		body, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		n.tests, n.bodies = append(n.tests, test), append(n.bodies, body)
		switch p.next().text {
		case "elif":
			continue
		case "else":
			if err := p.endTag(); err != nil {
				return nil, err
			}
			n.other, err = p.block("endif")
			return n, err
		}
		return n, p.endTag()
	}
}

func (p *parser) forTag() (stmt, error) {
	n := &forNode{}
	var err error
	if n.target, err = p.target(); err != nil {
		return nil, err
	}
	if err := p.want("in"); err != nil {
		return nil, err
	}
	if n.items, err = p.tupleOf((*parser).or); err != nil {
		return nil, err
	}
	if p.skip("if") {
		if n.test, err = p.expression(); err != nil {
			return nil, err
		}
	}
	n.recursive = p.skip("recursive")
	if err := p.endTag(); err != nil {
		return nil, err
	}
	if n.body, err = p.body("else", "endfor"); err != nil {
		return nil, err
	}
	if p.next().text == "else" {
		if err := p.endTag(); err != nil {
			return nil, err
		}
		n.other, err = p.block("endfor")
		return n, err
	}
	return n, p.endTag()
}

// target is what a loop or set assigns to: names, perhaps in brackets.
func (p *parser) target() (target, error) {
	var names []target
	for {
		var t target
		if p.skip("(") {
			inner, err := p.target()
			if err != nil {
				return target{}, err
			}
			if err := p.want(")"); err != nil {
				return target{}, err
			}
			t = inner
		} else {
			n, err := p.name()
			if err != nil {
				return target{}, err
			}
			t.name = n
		}
		names = append(names, t)
		if !p.skip(",") {
			break
		}
		if p.is("in", "=", ")") {
			return target{parts: names}, nil
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	return target{parts: names}, nil
}

func (p *parser) setTag() (stmt, error) {
	n := &setNode{}
	var err error
	if n.target, err = p.target(); err != nil {
		return nil, err
	}
	if n.target.name != "" && p.skip(".") {
		if n.target.field, err = p.name(); err != nil {
			return nil, err
		}
	}
	if p.skip("=") {
		if n.value, err = p.tuple(); err != nil {
			return nil, err
		}
		return n, p.endTag()
	}
	n.value, err = p.filtered("endset")
	return n, err
}

// filtered parses "| filters %} body {% ended %}" as an expression.
func (p *parser) filtered(ended string) (expr, error) {
	b := &blockExpr{}
	e, err := p.filters(b)
	if err != nil {
		return nil, err
	}
	if err := p.endTag(); err != nil {
		return nil, err
	}
	b.body, err = p.block(ended)
	return e, err
}

func (p *parser) filterTag() (stmt, error) {
	p.at-- // let the name of the tag stand for the pipe
	p.tokens = slices.Clone(p.tokens)
	p.tokens[p.at] = token{operator, "|", p.now().line}
	e, err := p.filtered("endfilter")
	return &printNode{e}, err
}

func (p *parser) withTag() (stmt, error) {
	n := &withNode{}
	for p.now().kind != blockEnd {
		if len(n.targets) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
		}
		t, err := p.target()
		if err != nil {
			return nil, err
		}
		if err := p.want("="); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.targets, n.values = append(n.targets, t), append(n.values, v)
	}
	p.next()
	var err error
	n.body, err = p.block("endwith")
	return n, err
}

// generationTag is transformers' own: it marks what the assistant says and
// changes no text.
func (p *parser) generationTag() (stmt, error) {
	if err := p.endTag(); err != nil {
		return nil, err
	}
	body, err := p.block("endgeneration")
	return &withNode{body: body}, err
}

func (p *parser) macroTag() (stmt, error) {
	n, err := p.name()
	if err != nil {
		return nil, err
	}
	m := &macro{name: n}
	if err := p.parameters(m); err != nil {
		return nil, err
	}
	if err := p.endTag(); err != nil {
		return nil, err
	}
	return &macroNode{m}, p.macroBody(m, "endmacro")
}

func (p *parser) macroBody(m *macro, ended string) (err error) {
	outer := p.macro
	p.macro = m
	m.body, err = p.block(ended)
	p.macro = outer
	return err
}

// parameters parses (a, b=1).
func (p *parser) parameters(m *macro) error {
	if err := p.want("("); err != nil {
		return err
	}
	for !p.skip(")") {
		if len(m.params) > 0 {
			if err := p.want(","); err != nil {
				return err
			}
		}
		n, err := p.name()
		if err != nil {
			return err
		}
		var value expr
		if p.skip("=") {
			if value, err = p.expression(); err != nil {
				return err
			}
		} else if len(m.defaults) > 0 && m.defaults[len(m.defaults)-1] != nil {
			return p.fail("parameter %q has no default value and follows one that has", n)
		}
		m.params, m.defaults = append(m.params, n), append(m.defaults, value)
	}
	return nil
}

func (p *parser) callTag() (stmt, error) {
	m := &macro{name: "caller"}
	if p.is("(") {
		if err := p.parameters(m); err != nil {
			return nil, err
		}
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := e.(*callExpr)
	if !ok {
		return nil, p.fail("want a call")
	}
	if err := p.endTag(); err != nil {
		return nil, err
	}
	call.caller = m
	return &printNode{call}, p.macroBody(m, "endcall")
}
