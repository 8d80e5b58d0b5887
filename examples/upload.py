"""Uploads a model of the client's to the server: upload.py NAME MODEL.onnx [TOKENIZER.json]. Needs psycopg 3."""
import sys
import psycopg

name, model, *tokenizer = sys.argv[1:]
with psycopg.connect() as connection:  # as PGHOST, PGDATABASE and so on say
    content = open(model, "rb").read()
    text = open(tokenizer[0], encoding="utf-8").read() if tokenizer else None
    row = connection.execute("SELECT predict.create_model(%s, %s, tokenizer => %s::jsonb)", (name, content, text)).fetchone()
    print(f"{name}@{row[0]} is there; a first call of it:\n{connection.execute('SELECT predict.describe(%s)', (name,)).fetchone()[0]}")
