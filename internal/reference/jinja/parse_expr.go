package jinja

import (
	"math/big"
	"strconv"
)

// expression parses what may end in "if … else …".
func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.or()
	for err == nil && p.skip("if") {
		c := &conditionExpr{then: e}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.skip("else") {
			if c.other, err = p.expression(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, err
}

// tuple parses one expression, or several with commas between.
func (p *parser) tuple() (expr, error) { return p.tupleOf((*parser).expression) }

func (p *parser) tupleOf(one func(*parser) (expr, error)) (expr, error) {
	var items []expr
	for {
		e, err := one(p)
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.skip(",") {
			break
		}
		if k := p.now().kind; k == varEnd || k == blockEnd || p.is(")") {
			return &listExpr{items, true}, nil
		}
	}
	if len(items) == 1 {
		return items[0], nil
	}
	return &listExpr{items, true}, nil
}

func (p *parser) or() (expr, error) {
	return p.left((*parser).and, "or")
}

func (p *parser) and() (expr, error) {
	return p.left((*parser).not, "and")
}

// left parses operators that group from the left.
func (p *parser) left(one func(*parser) (expr, error), ops ...string) (expr, error) {
	e, err := one(p)
	for err == nil && p.is(ops...) {
		t := p.next()
		var r expr
		if r, err = one(p); err == nil {
			e = &binaryExpr{t.text, e, r, t.line}
		}
	}
	return e, err
}

func (p *parser) not() (expr, error) {
	if p.is("not") && !(p.tokens[p.at+1].kind == name && p.tokens[p.at+1].text == "in") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		p.next()
		e, err := p.not()
		return &notExpr{e}, err
	}
	return p.compare()
}

func (p *parser) compare() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{first: first, line: p.now().line}
	for {
		var op string
		switch {
		case p.is("==", "!=", "<", "<=", ">", ">=", "in"):
			op = p.next().text
		case p.is("not") && p.tokens[p.at+1].kind == name && p.tokens[p.at+1].text == "in":
			p.next()
			p.next()
			op = "not in"
		default:
			if len(c.ops) == 0 {
				return first, nil
			}
			return c, nil
		}
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, e)
	}
}

func (p *parser) sum() (expr, error)     { return p.left((*parser).concat, "+", "-") }
func (p *parser) concat() (expr, error)  { return p.left((*parser).product, "~") }
func (p *parser) product() (expr, error) { return p.left((*parser).power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.left(func(p *parser) (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var e expr
	var err error
	if p.is("-", "+") {
		t := p.next()
		if e, err = p.unary(false); err == nil {
			e = &signExpr{t.text == "-", e, t.line}
		}
	} else {
		e, err = p.primary()
	}
	if err != nil {
		return nil, err
	}
	if e, err = p.postfix(e); err != nil || !filters {
		return e, err
	}
	return p.filters(e)
}

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch t.kind {
	case name:
		switch t.text {
		case "true", "True":
			return constant{true}, nil
		case "false", "False":
			return constant{false}, nil
		case "none", "None":
			return constant{nil}, nil
		}
		if p.macro != nil {
			p.macro.uses(t.text)
		}
		return &nameExpr{t.text}, nil
	case text:
		s := t.text
		for p.now().kind == text {
			s += p.next().text
		}
		return constant{s}, nil
	case integer:
		i, ok := new(big.Int).SetString(t.text, 0)
		if !ok {
			if i, ok = new(big.Int).SetString(t.text, 10); !ok {
				return nil, p.fail("%q is no number", t.text)
			}
		}
		return constant{whole(i)}, nil
	case float:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, p.fail("%q is no number", t.text)
		}
		return constant{f}, nil
	case operator:
		switch t.text {
		case "(":
			return p.brackets()
		case "[":
			items, err := p.until("]")
			return &listExpr{items, false}, err
		case "{":
			return p.dict()
		}
	}
	p.at = max(0, p.at-1)
	return nil, p.fail("unexpected %s", t)
}

func (p *parser) brackets() (expr, error) {
	if p.skip(")") {
		return &listExpr{nil, true}, nil
	}
	e, err := p.tuple()
	if err != nil {
		return nil, err
	}
	return e, p.want(")")
}

// until parses expressions with commas between up to a bracket.
func (p *parser) until(bracket string) (items []expr, err error) {
	for !p.skip(bracket) {
		if len(items) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
			if p.skip(bracket) {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return items, nil
}

func (p *parser) dict() (expr, error) {
	d := &dictExpr{}
	for !p.skip("}") {
		if len(d.keys) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
			if p.skip("}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.want(":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, k), append(d.values, v)
	}
	return d, nil
}

func (p *parser) postfix(e expr) (expr, error) {
	for {
		line := p.now().line
		switch {
		case p.skip("."):
			switch t := p.next(); t.kind {
			case name:
				e = &attrExpr{e, t.text, line}
			case integer:
				i, err := strconv.ParseInt(t.text, 10, 64)
				if err != nil {
					return nil, p.fail("%q is no index", t.text)
				}
				e = &itemExpr{e, constant{i}, line}
			default:
				return nil, p.fail("want a name or a number behind the dot")
			}
		case p.skip("["):
			var err error
			if e, err = p.subscript(e, line); err != nil {
				return nil, err
			}
		case p.is("("):
			var err error
			if e, err = p.call(e); err != nil {
				return nil, err
			}
		default:
			return e, nil
		}
	}
}

// subscript parses [index] or [from:to:step].
func (p *parser) subscript(e expr, line int) (expr, error) {
	var parts [3]expr
	n, colons := 0, 0
	for !p.is("]") {
		if p.skip(":") {
			if n++; n > 2 {
				return nil, p.fail("a slice has three parts")
			}
			colons++
			continue
		}
		if parts[n] != nil {
			return nil, p.fail("want ], not %s", p.now())
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		parts[n] = v
	}
	p.next()
	if colons > 0 {
		return &sliceExpr{e, parts, line}, nil
	}
	if parts[0] == nil {
		return nil, p.fail("an index is missing")
	}
	return &itemExpr{e, parts[0], line}, nil
}

func (p *parser) call(e expr) (expr, error) {
	c := &callExpr{of: e, line: p.now().line}
	return c, p.arguments(&c.args)
}

func (p *parser) arguments(a *argList) error {
	p.next()
	for n := 0; !p.skip(")"); n++ {
		if n > 0 {
			if err := p.want(","); err != nil {
				return err
			}
			if p.skip(")") {
				break
			}
		}
		if p.is("*", "**") {
			return p.fail("arguments with * are not supported")
		}
		named := ""
		if p.now().kind == name && p.tokens[p.at+1].kind == operator && p.tokens[p.at+1].text == "=" {
			named = p.next().text
			p.next()
		}
		v, err := p.expression()
		if err != nil {
			return err
		}
		switch {
		case named != "":
			a.names, a.named = append(a.names, named), append(a.named, v)
		case len(a.names) > 0:
			return p.fail("an argument without a name follows one with a name")
		default:
			a.pos = append(a.pos, v)
		}
	}
	return nil
}

// filters parses what follows an expression: filters, tests and calls.
func (p *parser) filters(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.skip("|"):
			e, err = p.filter(e)
		case p.skip("is"):
			e, err = p.test(e)
		case p.is("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) dotted() (string, error) {
	n, err := p.name()
	for err == nil && p.skip(".") {
		var more string
		more, err = p.name()
		n += "." + more
	}
	return n, err
}

func (p *parser) filter(e expr) (expr, error) {
	f := &filterExpr{of: e, line: p.now().line}
	var err error
	if f.name, err = p.dotted(); err != nil {
		return nil, err
	}
	if p.is("(") {
		err = p.arguments(&f.args)
	}
	return f, err
}

func (p *parser) test(e expr) (expr, error) {
	t := &testExpr{of: e, line: p.now().line}
	negated := p.skip("not")
	var err error
	if t.name, err = p.dotted(); err != nil {
		return nil, err
	}
	switch k := p.now().kind; {
	case p.is("("):
		err = p.arguments(&t.args)
	case (k == name && !p.is("else", "or", "and", "if", "in", "not")) || k == text || k == integer || k == float || p.is("[", "{"):
		if p.is("is") {
			return nil, p.fail("tests cannot be chained with is")
		}
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg)
		}
		t.args.pos = []expr{arg}
	}
	if negated {
		return &notExpr{t}, err
	}
	return t, err
}
