import pytest, json, re
@pytest.mark.parametrize("body", ["import sys\ndef f(i, d):\n    sys.exit()\n", "import sys\ndef f(i, d):\n    sys.exit(0)\n", "import sys\nsys.exit(0)\n", "def f(i, d):\n    raise KeyboardInterrupt\n", "def f(i, d):\n    raise GeneratorExit\n", "def f(i,d):\n    raise ValueError('\\ud800')\n", "def f(i,d):\n    return '\\ud800', d\n", "def f(i,d):\n    return {'a': float('nan')}\n", "def f(i,d):\n    return {'a': {1,2}}\n", "def f(i,d):\n    return {1: 2}\n", "def f(i,d):\n    d['s']=d; return d\n","def f(i,d):\n    print('hello'); return '', d\n", "def f(i,d):\n    print('hello'); return 'x'*300+i, d\n", "async def f(i,d):\n    return d\n"])
def test_x(command, text, written, tmp_path, body, documents):
    n="sh%d" % (abs(hash(body))%10**8)
    (tmp_path/f"{n}.py").write_text(body)
    said=command("run", written({**text, "transforms":[{"python": f"{n}:f"}]}), "--json")
    print(repr(body), said.code, said.err[-600:], said.out[:300]); print(documents() is None)

def test_name(command):
    said=command("run", "\udcff.yaml"); print(said)
def test_name2(command, monkeypatch):
    said=command("run", "ユ.yaml"); print(said)
