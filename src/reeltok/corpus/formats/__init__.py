"""Corpora in the layouts that trainers read: `export_corpus`, and a module for each format."""
